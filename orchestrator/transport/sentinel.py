"""The channel that asks Redis Sentinel where the primary is, each time it connects."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis

from orchestrator.transport.channel import Channel
from orchestrator.transport.redis.command_connection import Pool
from orchestrator.transport.redis.connections import SentinelTcpConnection, SentinelTlsConnection

#: Where a Sentinel listens unless the URL says otherwise.
SENTINEL_PORT = 26379


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """Used for a ``sentinel://`` URL; ``broker_transport_options`` name the primary (``master_name``)."""

    connection_class: type[Any] = SentinelTcpConnection
    connection_class_ssl: type[Any] = SentinelTlsConnection
    _sentinel_manager: Any

    def own_pool(self) -> Pool:
        """A pool that outlives this channel."""
        if not hasattr(self, "_sentinel_manager"):
            # kombu 5.6 does not close it.
            return super().own_pool()
        kept = self._sentinel_manager
        try:
            return super().own_pool()
        finally:
            # kombu closes the last one with the channel, and that must be the channel's.
            self._sentinel_manager = kept
