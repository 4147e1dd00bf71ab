"""Task orchestration on Celery with the supervision of Erlang/OTP."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from orchestrator.agents.agent import Agent, handles
    from orchestrator.agents.context import Context
    from orchestrator.app import Orchestrator
    from orchestrator.core.down import Down
    from orchestrator.core.errors import (
        AgentDown,
        AgentError,
        BroadcastRefused,
        BrokerUnavailable,
        CallerError,
        CircuitOpen,
        DeadlinePassed,
        DeliveryTimeout,
        DetachedDelivery,
        EmbeddedServerError,
        HandlerFailed,
        HandlerNotRun,
        HandlerTimeout,
        InfrastructureError,
        InvalidDeclaration,
        InvalidExport,
        InvalidMessage,
        InvalidPolicy,
        InvalidResult,
        InvalidSettings,
        MailboxFull,
        MessageTooLarge,
        NoOwner,
        NotSupervised,
        OrchestratorError,
        OwnerGone,
        ResultNotStored,
        SendFailed,
        UnknownAgent,
        UnknownDeadLetter,
        UnknownDelivery,
        UnknownMessage,
        UnsuitableRedis,
        UntrackedDelivery,
    )
    from orchestrator.core.flow_policy import Breaker, Mailbox
    from orchestrator.core.message import Message
    from orchestrator.core.outcome import Cancelled, Dead, Expired, Handled, Outcome
    from orchestrator.core.policy import Constant, Exponential, Linear, OnError, Retry, WhenDown
    from orchestrator.core.settings import Settings, load_settings
    from orchestrator.deadletters.replay import Canary
    from orchestrator.sending.broadcast import Refusal, Strategy
    from orchestrator.sending.call import FallbackDelivery
    from orchestrator.sending.deliveries import Deliveries
    from orchestrator.sending.delivery import CancelResult, Delivery, Status
    from orchestrator.sending.report import Receipt, Report
    from orchestrator.transport.endings.errors_in_backend import MessageDropped, PoisonMessage, SettlementFailed

# Imported when asked for: `orchestrator health` has no time for Celery and pydantic.
_WHERE = {
    "ResultNotStored": "orchestrator.core.errors",
    "InvalidResult": "orchestrator.core.errors",
    "HandlerNotRun": "orchestrator.core.errors",
    "DetachedDelivery": "orchestrator.core.errors",
    "UntrackedDelivery": "orchestrator.core.errors",
    "UnknownDelivery": "orchestrator.core.errors",
    "UnsuitableRedis": "orchestrator.core.errors",
    "Agent": "orchestrator.agents.agent",
    "handles": "orchestrator.agents.agent",
    "Context": "orchestrator.agents.context",
    "Orchestrator": "orchestrator.app",
    "Down": "orchestrator.core.down",
    "AgentDown": "orchestrator.core.errors",
    "AgentError": "orchestrator.core.errors",
    "BroadcastRefused": "orchestrator.core.errors",
    "BrokerUnavailable": "orchestrator.core.errors",
    "CallerError": "orchestrator.core.errors",
    "CircuitOpen": "orchestrator.core.errors",
    "DeadlinePassed": "orchestrator.core.errors",
    "DeliveryTimeout": "orchestrator.core.errors",
    "EmbeddedServerError": "orchestrator.core.errors",
    "HandlerFailed": "orchestrator.core.errors",
    "HandlerTimeout": "orchestrator.core.errors",
    "InfrastructureError": "orchestrator.core.errors",
    "InvalidDeclaration": "orchestrator.core.errors",
    "InvalidExport": "orchestrator.core.errors",
    "InvalidMessage": "orchestrator.core.errors",
    "InvalidPolicy": "orchestrator.core.errors",
    "InvalidSettings": "orchestrator.core.errors",
    "MailboxFull": "orchestrator.core.errors",
    "MessageTooLarge": "orchestrator.core.errors",
    "NoOwner": "orchestrator.core.errors",
    "NotSupervised": "orchestrator.core.errors",
    "OrchestratorError": "orchestrator.core.errors",
    "OwnerGone": "orchestrator.core.errors",
    "SendFailed": "orchestrator.core.errors",
    "UnknownAgent": "orchestrator.core.errors",
    "UnknownDeadLetter": "orchestrator.core.errors",
    "UnknownMessage": "orchestrator.core.errors",
    "Breaker": "orchestrator.core.flow_policy",
    "Mailbox": "orchestrator.core.flow_policy",
    "Message": "orchestrator.core.message",
    "Cancelled": "orchestrator.core.outcome",
    "Dead": "orchestrator.core.outcome",
    "Expired": "orchestrator.core.outcome",
    "Handled": "orchestrator.core.outcome",
    "Outcome": "orchestrator.core.outcome",
    "Exponential": "orchestrator.core.policy",
    "Constant": "orchestrator.core.policy",
    "Linear": "orchestrator.core.policy",
    "OnError": "orchestrator.core.policy",
    "Retry": "orchestrator.core.policy",
    "WhenDown": "orchestrator.core.policy",
    "Settings": "orchestrator.core.settings",
    "load_settings": "orchestrator.core.settings",
    "Canary": "orchestrator.deadletters.replay",
    "FallbackDelivery": "orchestrator.sending.call",
    "CancelResult": "orchestrator.sending.delivery",
    "Status": "orchestrator.sending.delivery",
    "Refusal": "orchestrator.sending.broadcast",
    "Strategy": "orchestrator.sending.broadcast",
    "Deliveries": "orchestrator.sending.deliveries",
    "Delivery": "orchestrator.sending.delivery",
    "Receipt": "orchestrator.sending.report",
    "Report": "orchestrator.sending.report",
    "MessageDropped": "orchestrator.transport.endings.errors_in_backend",
    "PoisonMessage": "orchestrator.transport.endings.errors_in_backend",
    "SettlementFailed": "orchestrator.transport.endings.errors_in_backend",
}

__all__ = [
    "Agent",
    "AgentDown",
    "AgentError",
    "Breaker",
    "BroadcastRefused",
    "BrokerUnavailable",
    "CallerError",
    "Canary",
    "CancelResult",
    "Cancelled",
    "CircuitOpen",
    "Constant",
    "Context",
    "Dead",
    "DeadlinePassed",
    "Deliveries",
    "Delivery",
    "DeliveryTimeout",
    "DetachedDelivery",
    "Down",
    "EmbeddedServerError",
    "Expired",
    "Exponential",
    "FallbackDelivery",
    "Handled",
    "HandlerFailed",
    "HandlerNotRun",
    "HandlerTimeout",
    "InfrastructureError",
    "InvalidDeclaration",
    "InvalidExport",
    "InvalidMessage",
    "InvalidPolicy",
    "InvalidResult",
    "InvalidSettings",
    "Linear",
    "Mailbox",
    "MailboxFull",
    "Message",
    "MessageDropped",
    "MessageTooLarge",
    "NoOwner",
    "NotSupervised",
    "OnError",
    "Orchestrator",
    "OrchestratorError",
    "Outcome",
    "OwnerGone",
    "PoisonMessage",
    "Receipt",
    "Refusal",
    "Report",
    "ResultNotStored",
    "Retry",
    "SendFailed",
    "Settings",
    "SettlementFailed",
    "Status",
    "Strategy",
    "UnknownAgent",
    "UnknownDeadLetter",
    "UnknownDelivery",
    "UnknownMessage",
    "UnsuitableRedis",
    "UntrackedDelivery",
    "WhenDown",
    "__version__",
    "handles",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = version("celery-orchestrator")
        return globals()[name]
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
