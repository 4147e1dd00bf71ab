"""Ends a channel's reading, so that no message is given to a reader that has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from orchestrator.core.log import get_logger

if TYPE_CHECKING:
    from orchestrator.transport.channel import Channel

logger = get_logger(__name__)


def stop_reading(channel: Channel, connection: Any, *, for_good: bool = False) -> None:
    """Take back what is asked of Redis on ``connection``, if it is one, and requeue what was not started.

    ``for_good`` also requeues what was delivered and not started. Messages come again in the order in which they are
    requeued, so the oldest goes first.
    """
    if connection:
        try:
            connection.disconnect()
        except (RedisError, OSError):
            logger.debug("closing the reading connection failed", exc_info=True)
    if for_good and channel._qos is not None:
        channel._qos.restore_unacked_once()
    channel.reader.forget()
    settler = channel.settler
    settler.requeue_unstarted([claim.tag for claim, _ in channel.delivery.take_all()])
    holder = settler.holder
    if connection or holder is None:
        try:
            # Claims that were served before the connection closed, and whose reply was not read.
            requeue_unread(channel)
        except (RedisError, OSError):
            logger.debug("claims whose reply was lost not requeued; a sweep requeues them", exc_info=True)


def requeue_unread(channel: Channel) -> None:
    """Requeue what was claimed by commands of which no reply will come.

    Raises:
        redis.exceptions.RedisError: Redis is away or refuses; a sweep requeues it.
    """
    holder = channel.settler.holder
    if holder is not None:
        holder.requeue_unreceived(0, reader=channel)
    elif channel.no_ack_queues:
        streams = [(stream, queue) for queue in channel.no_ack_queues for stream in channel._streams(queue)]
        channel.settler.requeue_unread(channel.incarnation, streams)
