"""A message's last chance: it has the worker to itself.

When a whole worker dies, everything it was running may have done it, and all of that comes back together; the
harmless would be convicted along with the deadly. And a message that kills the main process at once is never even
seen to start. So a message that one more death would bury, and one whose holders keep dying without an explanation,
is *secluded*: the worker gives back what it has not delivered, claims nothing more, waits until all it has delivered
is settled, marks the message and only then delivers it. If the worker dies now, it was this message.

The waiting has an end, and so has the being alone: where others run for very long, it runs beside them, and the death
that may follow does not say that it was alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

#: So many deaths of holders that did not run a message are a coincidence; one more would be a pattern.
UNATTRIBUTED_DEATHS = 2

#: Marks (see holder.py): delivered and not seen to start; running; running with nothing beside it.
DELIVERED, RUNNING, ALONE = 1, 2, 3


def is_last_chance(*, deaths: int, unattributed_deaths: int, max_deaths: int) -> bool:
    """Whether a message must have the worker to itself.

    Where one death is enough (``max_deaths`` 1), nobody has a last chance: it would be everybody's.
    """
    return 1 < max_deaths <= deaths + 1 or unattributed_deaths >= UNATTRIBUTED_DEATHS


@dataclass(slots=True)
class _IsolatedMessage:
    tag: str
    since: float
    delivered: bool = False
    mark: int = RUNNING


class PoisonIsolation:
    """Who has this process to itself, or waits for that; one message at a time."""

    def __init__(self, held: Mapping[str, object], *, wait_s: float, run_s: float) -> None:
        self._held = held
        self._wait_s = wait_s
        self._run_s = run_s
        self._guest: _IsolatedMessage | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody is, or wants to be, alone; then nothing is claimed and nothing else delivered."""
        return self._guest is not None

    def enter(self, tag: str) -> int:
        """Ask to be delivered now; asked again until the answer is yes.

        Returns:
            The mark to put on the message; 0 while it has to wait.
        """
        now = monotonic()
        if self._guest is not None and self._guest.tag != tag and self._guest.tag in self._held:
            return 0
        if self._guest is None or self._guest.tag != tag:
            self._guest = _IsolatedMessage(tag, now)
        guest = self._guest
        others = len(self._held) - (tag in self._held)
        if others and now - guest.since < self._wait_s:
            return 0
        guest.delivered, guest.since, guest.mark = True, now, RUNNING if others else ALONE
        return guest.mark

    def leave(self, on_overstay: Callable[[str], None]) -> bool:
        """Whether claiming may go on: the message is settled or given back, or has been alone for long enough.

        ``on_overstay`` is told of one that will not be alone any more.
        """
        guest = self._guest
        if guest is None:
            return True
        if guest.tag in self._held:
            if not guest.delivered or monotonic() - guest.since < self._run_s:
                return False
            if guest.mark == ALONE:
                on_overstay(guest.tag)
        self._guest = None
        return True
