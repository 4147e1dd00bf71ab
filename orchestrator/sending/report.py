"""The report of a broadcast."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import DetachedDelivery, InvalidPolicy
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.broadcast import Refusal, Strategy
from orchestrator.sending.delivery import MAX_WAIT_S, Awaiter, Delivery


@dataclass(frozen=True, slots=True)
class Receipt:
    """One recipient's: either the delivery of its copy, or why it was sent none."""

    recipient: str
    delivery: Delivery | None = None
    refusal: Refusal | None = None


@named_arguments
@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """A broadcast as it was accepted: a receipt for each recipient, in the order in which they were given."""

    id: str
    strategy: Strategy
    receipts: tuple[Receipt, ...]
    _await: Awaiter | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Report {self.id}: {len(self.deliveries)} sent, {len(self.refused)} refused>"

    def __reduce__(self) -> Any:
        return type(self), (self.id, self.strategy, self.receipts)

    @property
    def deliveries(self) -> dict[str, Delivery]:
        """By recipient, the copies on their way."""
        return {receipt.recipient: receipt.delivery for receipt in self.receipts if receipt.delivery is not None}

    @property
    def refused(self) -> dict[str, Refusal]:
        """By recipient, why it was sent none."""
        return {receipt.recipient: receipt.refusal for receipt in self.receipts if receipt.refusal is not None}

    def wait(self, timeout_s: float) -> dict[str, Outcome | Refusal | None]:
        """Wait for every copy's outcome, up to ``timeout_s`` seconds altogether, also while Redis is away.

        Returns:
            By recipient, the outcome; the refusal, if it was sent none; ``None``, if it has no outcome by then.

        Raises:
            InvalidPolicy: ``timeout_s`` is no time to wait.
            BrokerUnavailable: Redis did not answer when ``timeout_s`` seconds had passed.
        """
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MAX_WAIT_S:
            raise InvalidPolicy("timeout_s", timeout_s, f"a number above 0, at most {MAX_WAIT_S:g}")
        until = monotonic() + timeout_s
        ended: dict[str, Outcome | Refusal | None] = {}
        for receipt in self.receipts:
            delivery = receipt.delivery
            left_s = max(0.0, until - monotonic())
            if delivery is not None and self._await is None:
                raise DetachedDelivery(delivery.id)
            ended[receipt.recipient] = (
                receipt.refusal if delivery is None or self._await is None else self._await(delivery.id, left_s)
            )
        return ended
