"""A delivery that is known by its id only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.checks.text import is_text
from orchestrator.core.deliveries.outcome import Outcome, from_wire
from orchestrator.core.errors import UnknownDelivery
from orchestrator.core.policies.policy import OnError
from orchestrator.sending.delivery import Awaiter, CancelResult, Delivery, Found, Tracker

#: The record of a delivery whose own has expired or never was, from its dead letter; ``None`` if it has none.
LetterRecord = Callable[[str], Mapping[str, Any] | None]


def look_up(delivery_id: str, awaiter: Awaiter, tracker: Tracker, letter_record: LetterRecord) -> Delivery:
    """The delivery with that id: one that has its outcome, one in any mailbox, or one that is a dead letter.

    The caller is not the sender, so ``wait`` returns the outcome even if the delivery was sent with
    ``on_error="raise"``.

    Raises:
        UnknownDelivery: there is none.
        BrokerUnavailable: Redis is away.
    """
    if not is_text(delivery_id) or not delivery_id:
        raise UnknownDelivery(delivery_id)
    if tracker.record(delivery_id) is not None:
        return Delivery(delivery_id, "", "", OnError.DEAD_LETTER, awaiter, tracker)
    if (located := tracker.locate(delivery_id)) is not None:
        queue, found = located
        s = found.supervision
        return Delivery(delivery_id, s.agent, s.message, OnError.DEAD_LETTER, awaiter, tracker, queue, None, s.track)
    # It may have ended while it was looked for.
    if tracker.record(delivery_id) is not None:
        return Delivery(delivery_id, "", "", OnError.DEAD_LETTER, awaiter, tracker)
    if (record := letter_record(delivery_id)) is not None:
        ended = _EndedAsDeadLetter(record)
        agent, message, queue = (str(record.get(name, "")) for name in ("agent", "message", "queue"))
        return Delivery(delivery_id, agent, message, OnError.DEAD_LETTER, ended.outcome, ended, queue)
    raise UnknownDelivery(delivery_id)


class _EndedAsDeadLetter:
    """Tracks a delivery of which only its dead letter is left."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """The outcome that the dead letter records, at once."""
        return from_wire(self._record)

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The delivery's record, made from the dead letter."""
        return self._record

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """``None``: a dead delivery is in no mailbox."""
        return None

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """``None``: a dead delivery is in no mailbox."""
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """``TOO_LATE``: a dead delivery has its outcome."""
        return CancelResult.TOO_LATE
