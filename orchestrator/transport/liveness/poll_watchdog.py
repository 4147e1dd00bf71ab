"""Whether a worker that should ask for messages does."""

from __future__ import annotations


class PollWatchdog:
    """Adds up for how long a worker has not asked for messages although it should have, as its heartbeat sees it.

    Counted in heartbeats that reached Redis, not by the clock: a process that was stopped, or a Redis that was away,
    leaves a gap in which nobody asked, and which says nothing about the consumer.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._longest_step_s = 2 * heartbeat_s
        self._beat_at: float | None = None
        self._polled_at: float | None = None
        #: Seconds without asking for a message, although it should have.
        self.not_polling_s = 0.0

    def after_heartbeat(self, now_s: float, polled_at_s: float, should_poll: bool) -> None:
        """Count a heartbeat that Redis has answered. All times are of one monotonic clock."""
        if self._beat_at is None or not should_poll or polled_at_s != self._polled_at:
            self.not_polling_s = 0.0
        else:
            self.not_polling_s += min(now_s - self._beat_at, self._longest_step_s)
        self._beat_at, self._polled_at = now_s, polled_at_s
