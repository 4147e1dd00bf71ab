"""The results of a call that has no reply, and the checks of its options."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.calls.hedge import Hedge
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.errors import (
    AgentDown,
    BulkheadFull,
    CircuitOpen,
    DeadlinePassed,
    DeliveryTimeout,
    InvalidPolicy,
    MailboxFull,
    SendFailed,
)
from orchestrator.core.policies.policy import Retry
from orchestrator.sending.delivery import Delivery


@dataclass(frozen=True, slots=True)
class FallbackDelivery:
    """A call that did not succeed and was sent under supervision instead: not a reply, but a delivery."""

    delivery: Delivery
    #: Why there is no reply.
    error: AgentDown | DeadlinePassed | DeliveryTimeout | SendFailed | MailboxFull | CircuitOpen | BulkheadFull


def check_timeout(timeout_s: float) -> float:
    """The time for which a caller is willing to wait.

    Raises:
        InvalidPolicy: it has no end, or has passed.
    """
    if not is_number(timeout_s, 0, 24 * 3600) or not timeout_s:
        raise InvalidPolicy("timeout_s", timeout_s, "a number above 0, at most 86400")
    return float(timeout_s)


def check_call_options(timeout_s: float, on_death: str, retry: Retry | None, hedge: Hedge | None) -> None:
    """Check the options of a call.

    Raises:
        InvalidPolicy: one has a value that is not allowed.
    """
    check_timeout(timeout_s)
    if not isinstance(on_death, str) or on_death not in ("again", "fail"):
        raise InvalidPolicy("on_death", on_death, "'again' or 'fail'")
    if not isinstance(retry, Retry | None):
        raise InvalidPolicy("retry", retry, "a Retry")
    if not isinstance(hedge, Hedge | None):
        raise InvalidPolicy("hedge", hedge, "a Hedge")
    if hedge is not None and on_death == "fail":
        raise InvalidPolicy("hedge", hedge, "None with on_death='fail': a copy runs the request a second time")
    if hedge is not None and hedge.after_s >= timeout_s:
        raise InvalidPolicy("after_s", hedge.after_s, f"less than timeout_s={timeout_s:g}")
