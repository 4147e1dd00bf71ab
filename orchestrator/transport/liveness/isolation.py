"""Isolation: a suspect message has the worker to itself for its last attempt.

When a whole worker dies, any of the messages it was running may be the cause, and all of them are requeued together; so
bystanders would be dead-lettered along with the poison. And a message that kills the main process at once is not even
seen to start. So a message that one more death would make a dead letter, and one whose holders keep dying without a
known cause, is *isolated*: the worker requeues what it has not delivered, claims nothing more, waits until all it has
delivered is settled, marks the message and only then delivers it. If the worker dies now, this message is the cause.

Both the wait and the isolation are limited: where other messages run for very long, the message runs beside them, and
a death that follows is not recorded as one in isolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

#: Unattributed deaths from which on a message runs in isolation.
UNATTRIBUTED_DEATHS = 2

#: Marks (see held_claims.py): delivered and not seen to start; running; running in isolation.
DELIVERED, RUNNING, ALONE = 1, 2, 3


def is_last_chance(*, deaths: int, unattributed_deaths: int, max_deaths: int) -> bool:
    """Whether a message must have the worker to itself.

    Where one death is enough (``max_deaths`` 1), no message has a last chance: each first attempt would be one.
    """
    return 1 < max_deaths <= deaths + 1 or unattributed_deaths >= UNATTRIBUTED_DEATHS


@dataclass(slots=True)
class _IsolatedMessage:
    tag: str
    since: float
    delivered: bool = False
    mark: int = RUNNING


class PoisonIsolation:
    """The message that has this process to itself, or waits for it; one at a time."""

    def __init__(self, held: Mapping[str, object], *, wait_s: float, run_s: float) -> None:
        self._held = held
        self._wait_s = wait_s
        self._run_s = run_s
        self._message: _IsolatedMessage | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether a message is isolated or waits for it; then nothing is claimed, and nothing else delivered."""
        return self._message is not None

    def enter(self, tag: str) -> int:
        """Ask whether a message may be delivered now; asked again until it may.

        Returns:
            The mark to put on the message; 0 while it has to wait.
        """
        now = monotonic()
        if self._message is not None and self._message.tag != tag and self._message.tag in self._held:
            return 0
        if self._message is None or self._message.tag != tag:
            self._message = _IsolatedMessage(tag, now)
        message = self._message
        others = len(self._held) - (tag in self._held)
        if others and now - message.since < self._wait_s:
            return 0
        message.delivered, message.since, message.mark = True, now, RUNNING if others else ALONE
        return message.mark

    def leave(self, on_overstay: Callable[[str], None]) -> bool:
        """Whether claiming may go on: the message is settled or requeued, or its isolation has lasted long enough.

        In the latter case ``on_overstay`` is called with its tag.
        """
        message = self._message
        if message is None:
            return True
        if message.tag in self._held:
            if not message.delivered or monotonic() - message.since < self._run_s:
                return False
            if message.mark == ALONE:
                on_overstay(message.tag)
        self._message = None
        return True
