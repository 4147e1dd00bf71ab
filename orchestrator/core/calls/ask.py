"""The rule of asks: an ask is open until the first of three things ends it, and that decides what its reply is.

Pure functions of the state and the event. Eager mode calls them; ``includes/ask_ends.lua`` has the same rule for Redis,
where the state is the ask's record. A test drives both with the same moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

#: How an ask ends whose time is over, and one that its asker gives up.
TIMEOUT: Final = "timeout"
GIVEN_UP: Final = "given_up"


@dataclass(frozen=True, slots=True)
class AskState:
    """An open ask."""

    #: When it times out, in ms.
    due_ms: int
    #: The deliveries that may answer it.
    copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """The effects of the end of an ask."""

    #: How it has ended: by the kind of an outcome, or as one of the above.
    ended: str
    #: The copies that are not needed any more.
    cancelled: tuple[str, ...]

    @property
    def is_replied(self) -> bool:
        """Whether there is a reply."""
        return self.ended != GIVEN_UP


def accepted(state: AskState, copy: str) -> AskState:
    """The ask after a copy of its request was accepted."""
    return replace(state, copies=(*state.copies, copy))


def outcome_recorded(
    state: AskState | None, copy: str, ended: str, *, is_late: bool = False
) -> tuple[AskState | None, Ending | None]:
    """The outcome of one of its copies is recorded; if its deadline has ended it, the ask has timed out.

    An ask that has ended stays as it is.
    """
    if state is None or copy not in state.copies:
        return state, None
    return None, Ending(TIMEOUT if is_late else ended, tuple(one for one in state.copies if one != copy))


def time_came(state: AskState | None, now_ms: int) -> tuple[AskState | None, Ending | None]:
    """Somebody looks whether it has timed out."""
    if state is None or now_ms < state.due_ms:
        return state, None
    return None, Ending(TIMEOUT, state.copies)


def given_up(state: AskState | None) -> tuple[AskState | None, Ending | None]:
    """The asker wants no reply any more."""
    return None, None if state is None else Ending(GIVEN_UP, state.copies)
