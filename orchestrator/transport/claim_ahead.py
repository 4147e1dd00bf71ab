"""Computes how many messages a worker claims beyond its free slots: what it runs within a moment."""

from __future__ import annotations

#: Seconds of work that are claimed ahead.
_AHEAD_S = 0.05


class ClaimAhead:
    """Adapts the number of messages claimed ahead to the rate at which the last ones were delivered.

    It begins with none, at most doubles with each claim, and begins anew after a delivery that kept a slot for long.
    All times are seconds of the monotonic clock.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._claimed = 0
        self._claimed_at: float | None = None

    @property
    def count(self) -> int:
        """The number of messages to claim beyond the free slots."""
        return self._count

    def claimed(self, count: int, now_s: float) -> None:
        """Redis has given this process ``count`` messages."""
        if count and self._claimed_at is None:
            self._claimed, self._claimed_at = count, now_s

    def drained(self, now_s: float) -> None:
        """All of them are delivered, and a slot is free for another one."""
        if self._claimed_at is None:
            return
        took_s = max(now_s - self._claimed_at, 1e-6)
        self._count = min(self._most, 2 * self._claimed, int(self._claimed * _AHEAD_S / took_s))
        self._claimed_at = None

    def stalled(self) -> None:
        """Messages claimed ahead were requeued, because no slot became free."""
        self._count, self._claimed_at = 0, None
