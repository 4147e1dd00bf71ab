"""kombu's poller, less what only its unacknowledged-hash needs."""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import MultiChannelPoller


class Poller(MultiChannelPoller):
    """Waits for the reading connections of all channels. Nothing is restored by age: only death gives back."""

    def on_poll_init(self, poller: Any) -> None:
        """Called when an event loop takes over."""
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """Nothing to restore: the sweep does it, and knows who is dead."""
