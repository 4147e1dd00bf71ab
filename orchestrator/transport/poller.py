"""kombu's poller, less what only its unacknowledged-hash needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport.redis import MultiChannelPoller


class Poller(MultiChannelPoller):
    """Waits for the reading connections of all channels. Nothing is restored by age: only death gives back."""

    def on_poll_init(self, poller: Any) -> None:
        """Called when an event loop takes over."""
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """Nothing to restore: the sweep does it, and knows who is dead."""

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
