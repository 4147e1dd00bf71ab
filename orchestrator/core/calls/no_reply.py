"""The error of a request that has no reply in time: one, whether its worker or its caller notices that first."""

from __future__ import annotations

from orchestrator.core.deliveries.outcome import Dead, Outcome, Reason
from orchestrator.core.errors import DeliveryTimeout, SendFailed


def is_late(outcome: Outcome | None) -> bool:
    """Whether the deadline of a request has ended it; ``None`` is no outcome in time."""
    return outcome is None or (isinstance(outcome, Dead) and outcome.reason == Reason.DEADLINE)


def no_reply(request_id: str, outcome: Outcome | None, timeout_s: float) -> SendFailed | DeliveryTimeout:
    """The error of a request that was not handled; ``outcome`` is ``None`` if it has none in time."""
    if outcome is None or is_late(outcome):
        return DeliveryTimeout(request_id, timeout_s, f"request {request_id} has no reply after {timeout_s:g} s")
    return SendFailed(request_id, outcome)
