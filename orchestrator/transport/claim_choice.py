"""Chooses what a channel asks Redis for next: a sleep until a message comes, or a claim and its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.core.clock import to_ms
from orchestrator.transport.liveness.worker_state import WORKER_STATE

if TYPE_CHECKING:
    from orchestrator.transport.channel import Channel


class ClaimChoice:
    """The choice of one channel, by its prefetch limit."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: The streams of each mailbox, doorbell included.
        self._streams: dict[str, list[str]] = {}
        #: Whether the last claim was from all mailboxes that can be read.
        self._is_complete = False

    def next_command(self, queues: Sequence[str]) -> tuple[Any, ...]:
        """The command to send, about the mailboxes whose turn it is."""
        channel = self._channel
        if channel.delivery.buffer:
            return channel.reader.nudge()
        alone = channel.unreadable.next_alone(queues)
        if alone:
            self._is_complete = False
            return self._claim([alone])
        queues = channel.unreadable.readable(queues)
        # Of the mailboxes of the last claim alone it is known which must not be slept at.
        if (channel.reader.is_empty and self._is_complete) or not queues:
            streams = [stream for queue in queues for stream in self._streams_and_bell(queue)]
            longest_s = min(channel.options.block_s, channel.brpop_timeout or channel.options.block_s)
            longest_ms = channel.unreadable.longest_sleep_ms(to_ms(longest_s))
            return channel.reader.sleep(streams, channel.incarnation, longest_ms)
        self._is_complete = True
        return self._claim(queues)

    def _claim(self, queues: Sequence[str]) -> tuple[Any, ...]:
        channel = self._channel
        credit, ahead = self._credit()
        leased = channel.settler.holder is not None
        return channel.reader.claim(queues, channel.incarnation, credit, ahead, leased=leased)

    def room(self, most: int) -> int:
        """The number of messages that may be delivered now, at least 1 and at most ``most``."""
        channel = self._channel
        if channel.settler.holder is None or "can_consume" in vars(channel.qos):
            # Without a lease no sweep requeues what was claimed and not delivered; or Celery's
            # ``worker_disable_prefetch`` has replaced the limit by its own question: may one more be run?
            return 1
        left = channel.qos.can_consume_max_estimate()
        return most if left is None else max(1, min(most, left))

    def _streams_and_bell(self, queue: str) -> list[str]:
        names = self._streams.get(queue)
        if names is None:
            names = self._streams[queue] = self._channel._streams(queue, bell=True)
        return names

    def _credit(self) -> tuple[int, int]:
        """The numbers of messages to claim: to be delivered now, and ahead of free slots."""
        channel = self._channel
        if channel.delivery.take_single():
            return 1, 0
        room = self.room(int(channel.options.batch))
        if channel.reader.ahead is None or not self._may_claim_ahead():
            return room, 0
        return room, channel.reader.ahead.count

    def _may_claim_ahead(self) -> bool:
        channel = self._channel
        if channel.settler.holder is None or "can_consume" in vars(channel.qos) or WORKER_STATE.is_stopping():
            return False
        return channel.qos.can_consume_max_estimate() is not None and not channel.no_ack_queues
