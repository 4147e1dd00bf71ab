"""Request and reply, and what a caller gets who would rather have it done later than not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import AgentDown, DeadlinePassed, DeliveryTimeout, InvalidPolicy, SendFailed
from orchestrator.core.numbers import is_number
from orchestrator.core.outcome import Handled, Outcome
from orchestrator.core.policy import OnError, Retry, WhenDown
from orchestrator.sending.delivery import CancelResult, Delivery
from orchestrator.sending.send_options import CheckedOptions, SendOptions, check_options


@dataclass(frozen=True, slots=True)
class FallbackDelivery:
    """A call that did not succeed and was sent under supervision instead: not a reply, but a delivery."""

    delivery: Delivery
    #: Why there is no reply.
    error: AgentDown | DeadlinePassed | DeliveryTimeout | SendFailed


def call(ask: Callable[[], Delivery], timeout_s: float, instead: Callable[[], Delivery] | None) -> Any:
    """The reply to what ``ask`` sends, or what ``instead`` sends.

    A request that is given up is cancelled, so that it does not run after its caller has gone; one that a worker has
    begun may end all the same.

    Raises:
        AgentDown: nobody is there to answer.
        DeliveryTimeout: there was no reply in time.
        SendFailed: it was not handled; ``outcome`` says why.
        DeadlinePassed: the handler that asks has no time left; nothing was sent.
    """
    error: AgentDown | DeadlinePassed | DeliveryTimeout | SendFailed
    try:
        delivery = ask()
        outcome: Outcome | None
        try:
            outcome = delivery.wait(timeout_s)
        except DeliveryTimeout:
            # The reply may have come while it was given up.
            outcome = delivery.outcome() if delivery.cancel() is CancelResult.TOO_LATE else None
            if outcome is None:
                raise
        if isinstance(outcome, Handled):
            return outcome.result
        error = SendFailed(delivery.id, outcome)
    except (AgentDown, DeadlinePassed, DeliveryTimeout) as failed:
        error = failed
    if instead is None:
        raise error
    return FallbackDelivery(instead(), error)


def request_options(timeout_s: float) -> CheckedOptions:
    """The options of a request: one attempt, by a living worker, and no dead letter.

    Raises:
        InvalidPolicy: ``timeout_s`` is not a valid deadline.
    """
    options = SendOptions(
        retry=Retry(max_retries=0), on_error=OnError.IGNORE, deadline_s=timeout_s, when_down=WhenDown.ERROR
    )
    return check_options(options)


def check_timeout(timeout_s: float) -> float:
    """How long a caller is willing to wait.

    Raises:
        InvalidPolicy: it has no end, or has passed.
    """
    if not is_number(timeout_s, 0, 24 * 3600) or not timeout_s:
        raise InvalidPolicy("timeout_s", timeout_s, "a number above 0, at most 86400")
    return float(timeout_s)


def check_fallback(fallback: bool | Mapping[str, Any] | None) -> CheckedOptions | None:
    """How a call that does not succeed is to be sent instead; ``None`` if it is not.

    Raises:
        InvalidPolicy: it says neither whether nor how; or an option has a bad value.
    """
    if not isinstance(fallback, bool | Mapping | None):
        raise InvalidPolicy("fallback", fallback, "True, False, or the options of a send")
    if fallback is None or fallback is False:
        return None
    options: Any = {} if fallback is True else fallback
    return check_options(options)
