"""The pace of a scheduler: how many schedules it fires in a pass, and a second."""

from __future__ import annotations

from time import monotonic

from orchestrator.schedules.redis.scripts import MOST_AT_ONCE


class Pace:
    """Spreads fires over time; ``rate`` is the most in a second, 0 for no limit."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._may_fire_at = 0.0

    @property
    def most_in_pass(self) -> int:
        """The number of schedules that one pass may fire."""
        if not self.rate:
            return MOST_AT_ONCE
        return max(1, min(MOST_AT_ONCE, round(self.rate / 10)))

    def fired(self, count: int, began_at: float) -> None:
        """Count the fires of a pass that began at this monotonic time."""
        if self.rate and count:
            self._may_fire_at = max(self._may_fire_at, began_at) + count / self.rate

    @property
    def wait_s(self) -> float:
        """Seconds until the next fire is allowed; below 0 if it is allowed now."""
        return self._may_fire_at - monotonic() if self.rate else 0.0
