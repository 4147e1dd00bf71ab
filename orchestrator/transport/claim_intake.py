"""Takes in the messages that a channel has claimed: records them, and puts them where they are delivered from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.core.keys import GROUP
from orchestrator.transport.claim_buffer import Buffered
from orchestrator.transport.reader import NoLease
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.withheld_mailboxes import WithheldMailboxes

if TYPE_CHECKING:
    from orchestrator.transport.channel import Channel


class ClaimIntake:
    """The intake of one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._withheld = WithheldMailboxes(channel.options)

    def take_in(self, reply: Any) -> None:
        """Put the messages of a reply into the buffer.

        Raises:
            redis.exceptions.ConnectionError: the incarnation was fenced.
        """
        channel = self.channel
        buffer, reader = channel.delivery.buffer, channel.reader
        try:
            claimed, doorbells = reader.read(unwrap_reply(reply))
        except NoLease:
            self._break_off()
        if not reader.slept:
            if reply is not None and len(reader.claimed_from) == 1:
                channel.unreadable.was_read(reader.claimed_from[0])
            self._rotate_queues(claimed)
            if reader.withheld or self._withheld.queues:
                self._withheld.after_claim(reader.withheld, channel.incarnation)
        self.record(claimed)
        buffer.extend(claimed)
        for stream, entry in doorbells:
            channel.wire.call("XACK", stream, GROUP, entry)
            channel.wire.call("XDEL", stream, entry)
        if reader.slept:
            self._requeue_surplus()
            reader.count_claimed(len(buffer))
        else:
            reader.count_claimed(len(claimed))

    def take_one(self, reply: Any, queue: str) -> Buffered | None:
        """The message of a reply to a claim of one; ``None`` if there is none. Raises as :meth:`take_in`."""
        try:
            claimed = self.channel.reader.read_claimed(unwrap_reply(reply), [queue])
        except NoLease:
            self._break_off()
        self._rotate_queues(claimed)
        self.record(claimed)
        return claimed[0] if claimed else None

    def requeue_stalled(self, stalled: list[Buffered]) -> None:
        """Requeue what was claimed ahead and got no slot. Called in the buffer's thread."""
        channel = self.channel
        if channel.reader.ahead is not None:
            channel.reader.ahead.stalled()
        channel.settler.requeue([claim.tag for claim, _ in stalled])

    def _break_off(self) -> NoReturn:
        self.channel.on_fenced()
        raise RedisConnectionError(f"{self.channel.incarnation} was fenced")

    def _rotate_queues(self, claimed: list[Buffered]) -> None:
        for claim, _ in claimed:
            self.channel._queue_cycle.rotate(claim.queue)

    def record(self, claimed: list[Buffered]) -> None:
        settler = self.channel.settler
        for claim, _ in claimed:
            settler.add(claim)

    def _requeue_surplus(self) -> None:
        """Requeue what exceeds the limit: a sleeping read takes one message of each level and queue."""
        channel = self.channel
        buffer = channel.delivery.buffer
        # One message is always allowed.
        if channel.settler.holder is not None and len(buffer) > 1:
            surplus = buffer.pop_last(max(0, len(buffer) - channel.claim_choice.room(len(buffer))))
            channel.settler.requeue([claim.tag for claim, _ in surplus])
