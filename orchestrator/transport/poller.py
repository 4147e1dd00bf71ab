"""kombu's poller, less what only its unacknowledged-hash needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport.redis import MultiChannelPoller

logger = logging.getLogger(__name__)

#: How often to look for a connection on which Redis owes an answer.
_WATCH_EVERY_S = 1.0


class Poller(MultiChannelPoller):
    """Waits for the reading connections of all channels. Nothing is restored by age: only death gives back."""

    _watching: Any = None

    def on_poll_init(self, poller: Any) -> None:
        """Called when an event loop takes over."""
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """Nothing to restore: the sweep does it, and knows who is dead."""

    def watch(self, loop: Any) -> None:
        """Look regularly for connections that died without a word. Called with each new event loop."""
        if self._watching is not None:
            self._watching.cancel()
        self._watching = loop.call_repeatedly(_WATCH_EVERY_S, self.maybe_check_brpop_health)

    def maybe_check_brpop_health(self) -> None:
        """Close reading connections on which an answer is overdue; they are opened again at the next poll.

        kombu does this after 25 s; a network that swallows packets would stop a worker for as long.
        """
        for channel in tuple(self._channels):
            overdue_s = channel.overdue_s()
            if overdue_s is not None:
                logger.warning("Redis has not answered for %.0f s; connecting again", overdue_s)
                channel.client.connection.disconnect()

    @property
    def one_at_a_time(self) -> bool:
        """Whether somebody drains by hand; then a call delivers one message, as on every kombu transport."""
        return bool(self._in_protected_read)

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> None:
        """Deliver one message; those that came in the same answer from Redis first."""
        for channel in tuple(self._channels):
            if channel.deliver_next():
                return
        super().get(callback, timeout)
