"""The time at which the running attempt has to end, for what its handler sends and calls."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Final


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The limits of one attempt."""

    #: When the attempt has to end, by ``time.monotonic()``.
    ends_at_s: float
    #: When all attempts of its delivery have to have ended, in seconds since 1970; ``None`` without a deadline.
    deadline_at_s: float | None = None

    def remaining_s(self) -> float:
        """Seconds until the attempt has to end; 0 after that."""
        return max(0.0, self.ends_at_s - monotonic())


#: The limits of the attempt that runs in this context (a thread, a greenlet); ``None`` if it has none, or none runs.
CURRENT: Final[ContextVar[AttemptLimits | None]] = ContextVar("orchestrator_attempt_limits", default=None)


def earlier(own_at_s: float | None, inherited_at_s: float | None) -> float | None:
    """The deadline of a send that inherits one: never later than what it inherits."""
    if own_at_s is None or inherited_at_s is None:
        return inherited_at_s if own_at_s is None else own_at_s
    return min(own_at_s, inherited_at_s)
