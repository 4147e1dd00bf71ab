"""Task orchestration on Celery with the supervision of Erlang/OTP."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.agents.agent import Agent, handles
    from orchestrator.agents.context import Context
    from orchestrator.app import Orchestrator
    from orchestrator.core.down import Down
    from orchestrator.core.errors import OrchestratorError
    from orchestrator.core.flow import Breaker, Mailbox
    from orchestrator.core.message import Message
    from orchestrator.core.outcome import Cancelled, Dead, Expired, Handled, Outcome
    from orchestrator.core.policy import Exponential, Fixed, Linear, OnError, Retry, WhenDown
    from orchestrator.core.settings import Settings, load_settings
    from orchestrator.deadletters.replay import Canary
    from orchestrator.sending.broadcast import Refusal, Strategy
    from orchestrator.sending.call import FellBack
    from orchestrator.sending.deliveries import Deliveries
    from orchestrator.sending.delivery import Cancelling, Delivery, Status
    from orchestrator.sending.report import Receipt, Report

# Imported when asked for: `orchestrator health` has no time for Celery and pydantic.
_WHERE = {
    "Agent": "orchestrator.agents.agent",
    "handles": "orchestrator.agents.agent",
    "Context": "orchestrator.agents.context",
    "Orchestrator": "orchestrator.app",
    "Down": "orchestrator.core.down",
    "OrchestratorError": "orchestrator.core.errors",
    "Breaker": "orchestrator.core.flow",
    "Mailbox": "orchestrator.core.flow",
    "Message": "orchestrator.core.message",
    "Cancelled": "orchestrator.core.outcome",
    "Dead": "orchestrator.core.outcome",
    "Expired": "orchestrator.core.outcome",
    "Handled": "orchestrator.core.outcome",
    "Outcome": "orchestrator.core.outcome",
    "Exponential": "orchestrator.core.policy",
    "Fixed": "orchestrator.core.policy",
    "Linear": "orchestrator.core.policy",
    "OnError": "orchestrator.core.policy",
    "Retry": "orchestrator.core.policy",
    "WhenDown": "orchestrator.core.policy",
    "Settings": "orchestrator.core.settings",
    "load_settings": "orchestrator.core.settings",
    "Canary": "orchestrator.deadletters.replay",
    "FellBack": "orchestrator.sending.call",
    "Cancelling": "orchestrator.sending.delivery",
    "Status": "orchestrator.sending.delivery",
    "Refusal": "orchestrator.sending.broadcast",
    "Strategy": "orchestrator.sending.broadcast",
    "Deliveries": "orchestrator.sending.deliveries",
    "Delivery": "orchestrator.sending.delivery",
    "Receipt": "orchestrator.sending.report",
    "Report": "orchestrator.sending.report",
}

__all__ = [
    "Agent",
    "Breaker",
    "Canary",
    "Cancelled",
    "Cancelling",
    "Context",
    "Dead",
    "Deliveries",
    "Delivery",
    "Down",
    "Expired",
    "Exponential",
    "FellBack",
    "Fixed",
    "Handled",
    "Linear",
    "Mailbox",
    "Message",
    "OnError",
    "Orchestrator",
    "OrchestratorError",
    "Outcome",
    "Receipt",
    "Refusal",
    "Report",
    "Retry",
    "Settings",
    "Status",
    "Strategy",
    "WhenDown",
    "handles",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
