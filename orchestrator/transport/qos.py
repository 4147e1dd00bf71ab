"""The messages that a channel has delivered and not settled. Unlike kombu's, it writes nothing: Redis knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.transport.letter_draft import LetterDraft

if TYPE_CHECKING:
    from orchestrator.transport.channel import Channel


class QoS(virtual.QoS):
    """Prefetch accounting; acknowledgements go through the incarnation's pipeline."""

    channel: Channel

    def can_consume(self) -> bool:
        """Whether the prefetch limit, and the last chance of another message, allow more."""
        holder = self.channel.settler.holder
        if holder is not None and holder.claims.isolation.is_wanted and not holder.claims.may_claim():
            self.channel.connection.cycle.look_again()
            return False
        return bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message is delivered."""
        self._delivered[delivery_tag] = message

    def ack(self, delivery_tag: str) -> None:
        """The message was handled."""
        self.channel.settler.settle(delivery_tag, "handled")
        self.settled(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The message goes back to the head of its queue, or becomes a dead letter."""
        if requeue:
            self.channel.settler.requeue([delivery_tag])
        else:
            self._dead_letter(delivery_tag)
        self.settled(delivery_tag)

    def _dead_letter(self, delivery_tag: str) -> None:
        headers = getattr(self._delivered.get(delivery_tag), "headers", None)
        letter = LetterDraft(Reason.REJECTED.value)
        queue = self.channel.settler.dead_letter(delivery_tag, letter)
        # Celery also rejects messages that are dead letters already: those that it cannot read.
        if queue is not None:
            known = headers if isinstance(headers, dict) else {}
            letter.emit(
                agent=queue,
                message=str(known.get("task") or ""),
                delivery_id=str(known.get("id") or ""),
                error="",
            )

    def settled(self, delivery_tag: str) -> None:
        """The message was settled elsewhere; it no longer counts against the prefetch limit."""
        # kombu's own would only do so when the next message is delivered.
        self._delivered.pop(delivery_tag, None)
        connection = self.channel.connection
        if connection is not None:
            connection.cycle.slot_freed()

    def restore_unacked(self) -> list[Any]:
        """Requeue what was not started. What runs stays with this process and is settled when it ends."""
        self.channel.settler.requeue_unstarted(list(self._delivered))
        self._delivered.clear()
        return []
