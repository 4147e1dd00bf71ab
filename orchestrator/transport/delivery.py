"""Delivery: a channel's claimed messages go to its consumers, in order, as far as the prefetch limit allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.transport.claim_buffer import Buffered, ClaimBuffer
from orchestrator.transport.letter_draft import LetterDraft
from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.mailbox_entry import MalformedEntry, decode

if TYPE_CHECKING:
    from orchestrator.transport.channel import Channel

#: A solo pool runs tasks while we deliver; after this long the event loop gets its turn.
_SLICE_S = 0.05

#: In the header of a message that may have to be ended, and not run again, after a death (see requeue.lua).
_ON_DEATH = b'"on_death"'


class Delivery:
    """Delivers the messages of one channel."""

    def __init__(self, channel: Channel, requeue_stalled: Callable[[list[Buffered]], None]) -> None:
        self.buffer = ClaimBuffer(requeue_stalled)
        #: A message that waits for this process to itself.
        self.isolated: Buffered | None = None
        self._channel = channel
        self._claims_single = False

    def take_single(self) -> bool:
        """Whether the next claim is to bring one message only; true once after a message was isolated.

        Messages of a dead incarnation come back together, so more of them may have to run in isolation.
        """
        single, self._claims_single = self._claims_single, False
        return single

    def is_possible(self) -> bool:
        """Whether a message is here, nothing is being asked of Redis, and a slot is free."""
        channel = self._channel
        return bool(self.buffer and not channel._in_poll and channel.active_queues and channel.qos.can_consume())

    def deliver_next(self) -> bool:
        """Deliver one message that is here, if the prefetch limit allows it; returns whether one was delivered."""
        if self.isolated is not None:
            return self.deliver_isolated()
        return bool(self.buffer) and self._channel.qos.can_consume() and self._deliver_first()

    def deliver_buffered(self) -> None:
        """Deliver what is here, as far as slots are free; it takes no round trip."""
        if self._channel.connection.cycle.one_at_a_time:
            self.deliver_next()
            return
        began = monotonic()
        delivered = False
        while self.buffer:
            if delivered and (monotonic() - began > _SLICE_S or not self._channel.qos.can_consume()):
                return
            delivered = True
            self._deliver_first()

    def deliver_isolated(self) -> bool:
        """Deliver the isolated message, if it has this process to itself now; returns whether it was delivered."""
        holder = self._channel.settler.holder
        if self.isolated is None or holder is None:
            return False
        self._channel.check_not_fenced()
        claim, raw = self.isolated
        if claim.tag in holder.claims and not holder.claims.mark_last_chance(claim):
            return False
        self.isolated = None
        if claim.tag not in holder.claims:
            return False
        self._deliver(claim, raw)
        return True

    def take_all(self) -> list[Buffered]:
        """Take out all that is not delivered, in the order of delivery."""
        undelivered = self.buffer.pop_all()
        if self.isolated is not None:
            undelivered.insert(0, self.isolated)
            self.isolated = None
        return undelivered

    def _deliver_first(self) -> bool:
        self._channel.check_not_fenced()
        taken = self.buffer.pop()
        return taken is not None and self._deliver_or_isolate(*taken)

    def _deliver_or_isolate(self, claim: Claim, raw: bytes) -> bool:
        channel = self._channel
        if not claim.last_chance or channel.settler.holder is None or claim.queue in channel.no_ack_queues:
            self._deliver(claim, raw)
            return True
        channel.settler.requeue([behind.tag for behind, _ in self.buffer.pop_all()])
        self._claims_single = True
        self.isolated = claim, raw
        return self.deliver_isolated()

    def _deliver(self, claim: Claim, raw: bytes) -> None:
        channel, settler = self._channel, self._channel.settler
        if claim.ahead and settler.holder is not None:
            claim.ahead = False
            claims = settler.holder.claims
            mark = claims.confirm_delivered if _ON_DEATH in raw else claims.mark_delivered
            if not mark(claim):
                # If this process died now, it would be requeued as one that cannot have begun; or it was already.
                settler.requeue([claim.tag])
                return
        if channel.connection is None or claim.queue not in channel.connection._callbacks:
            # Cancelled while the message was on its way.
            settler.requeue([claim.tag])
            return
        claim.delivered = True
        redelivered = claim.deaths > 0 or claim.came_back
        try:
            payload = decode(raw, tag=claim.tag, queue=claim.queue, redelivered=redelivered)
            eta = _clear_eta(payload)
            message = channel.Message(payload, channel=channel)
            message.eta_waited = eta
        except MalformedEntry as error:
            self.dead_letter_malformed(claim, str(error))
            return
        except (TypeError, ValueError, KeyError, AttributeError, LookupError) as error:
            self.dead_letter_malformed(claim, f"{type(error).__name__}: {error}")
            return
        no_ack = claim.queue in channel.no_ack_queues
        if no_ack and settler.holder is None:
            # It belongs to its reader now; or it was requeued, because the reader did not read it in time.
            if settler.settle_unheld(claim.tag):
                channel.connection._callbacks[claim.queue](message)
            return
        channel.connection._callbacks[claim.queue](message)
        if no_ack:
            settler.settle(claim.tag, "handled")

    def dead_letter_malformed(self, claim: Claim, text: str) -> None:
        """Make a dead letter of an entry that is no message."""
        letter = LetterDraft(Reason.MALFORMED.value, "MalformedEntry", text)
        if self._channel.settler.dead_letter(claim.tag, letter) is not None:
            # Nothing in it can be trusted to be its id, or what message it is.
            letter.emit(agent=claim.queue, message="", delivery_id="")


def _clear_eta(payload: Mapping[str, Any]) -> Any:
    """Remove the ``eta`` and return it: Redis has waited for it; a worker whose clock is behind would wait again."""
    headers = payload["headers"]
    eta = headers.get("eta")
    if eta:
        headers["eta"] = None
    return eta
