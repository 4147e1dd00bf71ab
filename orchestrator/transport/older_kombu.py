"""Adds to kombu 5.6's Redis transport what the channel relies on: queues that expire, and fanout in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps

from orchestrator.core.log import get_logger

logger = get_logger(__name__)


class OlderChannel(kombu_redis.Channel):
    """kombu 5.6's channel with these. What is bound to an exchange stays so there when its queue has expired."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: The milliseconds after which unused queues expire, by their names.
        self._expires: dict[str, int] = {}
        super().__init__(*args, **kwargs)

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Say ``Queue(expires=…)`` and its like as RabbitMQ's arguments."""
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments, **kwargs)
        return prepared

    def maybe_refresh_binding_expiry(self) -> None:
        """Bindings do not expire."""

    def _flush_brpop_reauth(self) -> None:
        """Credentials are not renewed while connected."""

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        try:
            self._expires[queue] = int(kwargs["arguments"]["x-expires"])
        except (KeyError, TypeError, ValueError):
            self._expires.pop(queue, None)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        if batch is None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)
        else:
            batch.add("publish", self._get_publish_topic(exchange, routing_key), dumps(message))


class OlderPoller(kombu_redis.MultiChannelPoller):
    """kombu 5.6's poller that keeps alive what its channels consume."""

    def maybe_refresh_binding_expiry(self) -> None:
        """Refresh what expires of all channels; each knows how often."""
        for channel in tuple(self._channels):
            try:
                channel.maybe_refresh_binding_expiry()
            except channel.connection_errors:
                logger.debug("expiry of queues not extended; next try soon", exc_info=True)

    def on_poll_start(self) -> None:
        """As often as the event loop turns."""
        self.maybe_refresh_binding_expiry()
        super().on_poll_start()

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> None:
        """Serve a connection without an event loop."""
        self.maybe_refresh_binding_expiry()
        super().get(callback, timeout)


if TYPE_CHECKING or hasattr(kombu_redis.Channel, "create_publish_batch"):
    KombuChannel = kombu_redis.Channel
    KombuPoller = kombu_redis.MultiChannelPoller
else:
    KombuChannel = OlderChannel
    KombuPoller = OlderPoller
