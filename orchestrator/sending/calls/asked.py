"""`Asked`: a request whose reply can be fetched later; and what comes of asking many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from orchestrator.core.calls.no_reply import no_reply
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.deliveries.outcome import Handled, Outcome
from orchestrator.core.errors import BrokerUnavailable, DeliveryTimeout, InvalidPolicy
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.delivery import MAX_WAIT_S, CancelResult, Delivery


@named_arguments
@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way. It is attempted once, and leaves no dead letter."""

    delivery: Delivery
    timeout_s: float
    #: When it is given up, by ``time.monotonic()``.
    _until: float = field(repr=False)

    @property
    def id(self) -> str:
        """The delivery's id."""
        return self.delivery.id

    def reply(self, timeout_s: float | None = None) -> Any:
        """The handler's result. Waits until the time of the ask is over, or for ``timeout_s`` if that is shorter.

        When the time of the ask is over, the request is cancelled; one that a worker has begun may end all the same.

        Raises:
            DeliveryTimeout: there was no reply in time.
            SendFailed: it was not handled; ``outcome`` says why.
            InvalidPolicy: ``timeout_s`` is out of range.
            BrokerUnavailable: Redis did not answer.
        """
        if timeout_s is not None and (not is_number(timeout_s, 0, MAX_WAIT_S) or not timeout_s):
            raise InvalidPolicy("timeout_s", timeout_s, f"a number above 0, at most {MAX_WAIT_S:g}")
        left_s = self._until - monotonic()
        outcome: Outcome | None
        try:
            # A reply that is there is returned, however late.
            outcome = self.delivery.wait(max(0.001, left_s if timeout_s is None else min(timeout_s, left_s)))
        except DeliveryTimeout:
            if monotonic() < self._until:
                raise no_reply(self.id, None, float(timeout_s or self.timeout_s)) from None
            outcome = self._give_up()
            if outcome is None:
                raise no_reply(self.id, None, self.timeout_s) from None
        if isinstance(outcome, Handled):
            return outcome.result
        raise no_reply(self.id, outcome, self.timeout_s)

    def _give_up(self) -> Outcome | None:
        """Cancel the request; returns its outcome if that has come meanwhile."""
        try:
            return self.delivery.outcome() if self.delivery.cancel() is CancelResult.TOO_LATE else None
        except BrokerUnavailable:
            # Its deadline has passed, so no worker begins it.
            return None

    def cancel(self) -> CancelResult:
        """Give the request up; see :meth:`Delivery.cancel`.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.delivery.cancel()


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies to a question that many agents were asked."""

    #: By agent, in the order in which they replied.
    results: Mapping[str, Any]
    #: By agent, why there is no result. Agents whose reply was no longer needed are in neither mapping.
    errors: Mapping[str, Exception]
