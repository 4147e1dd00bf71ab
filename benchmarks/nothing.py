"""A transport that publishes nothing: what is left of ``apply_async`` over it no transport could take away."""

from __future__ import annotations

from typing import Any

from orchestrator.transport.channel import Channel
from orchestrator.transport.transport import Transport


class NothingChannel(Channel):
    """Forgets what it is given."""

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Does nothing."""


class Nothing(Transport):
    """As ours, up to the moment of publishing."""

    Channel = NothingChannel
