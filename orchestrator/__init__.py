"""Task orchestration on Celery with the supervision of Erlang/OTP."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    # "as" makes a name public for a type checker; isort would write a statement for each.
    # isort: off

    from orchestrator.agents.agent import Agent as Agent
    from orchestrator.agents.context import Context as Context
    from orchestrator.agents.expand import Expand as Expand
    from orchestrator.agents.handles import handles as handles
    from orchestrator.agents.periodic import (
        Fire as Fire,
        cron as cron,
        every as every,
    )
    from orchestrator.agents.replies import replies as replies
    from orchestrator.agents.step_context import StepContext as StepContext
    from orchestrator.agents.votes import votes as votes
    from orchestrator.app import Orchestrator as Orchestrator
    from orchestrator.coordination.ballots.ballot import Ballot as Ballot
    from orchestrator.coordination.distribution.distributor import FoundAgent as FoundAgent
    from orchestrator.coordination.distribution.hierarchies import Hierarchy as Hierarchy
    from orchestrator.coordination.distribution.report import DistributionReport as DistributionReport
    from orchestrator.core.admission.bulkhead import Bulkhead as Bulkhead
    from orchestrator.core.admission.concurrency import Concurrency as Concurrency
    from orchestrator.core.admission.flow_policy import (
        Breaker as Breaker,
        Mailbox as Mailbox,
    )
    from orchestrator.core.calls.hedge import Hedge as Hedge
    from orchestrator.core.calls.reply import Reply as Reply
    from orchestrator.core.coordination.ballot_rules import (
        Majority as Majority,
        Quorum as Quorum,
        Unanimous as Unanimous,
        Weighted as Weighted,
    )
    from orchestrator.core.coordination.decision import (
        Decision as Decision,
        Vote as Vote,
    )
    from orchestrator.core.coordination.distribution import DistributionStrategy as DistributionStrategy
    from orchestrator.core.coordination.term import Term as Term
    from orchestrator.core.deliveries.down import Down as Down
    from orchestrator.core.deliveries.outcome import (
        Cancelled as Cancelled,
        Dead as Dead,
        Expired as Expired,
        Handled as Handled,
        Outcome as Outcome,
    )
    from orchestrator.core.errors import (
        AgentDown as AgentDown,
        AgentError as AgentError,
        BallotExists as BallotExists,
        BarrierBroken as BarrierBroken,
        BroadcastRefused as BroadcastRefused,
        BrokenKey as BrokenKey,
        BrokerUnavailable as BrokerUnavailable,
        BulkheadFull as BulkheadFull,
        CallNotDeployed as CallNotDeployed,
        CallWouldDeadlock as CallWouldDeadlock,
        CallerError as CallerError,
        CircuitOpen as CircuitOpen,
        DeadlinePassed as DeadlinePassed,
        DeliveryTimeout as DeliveryTimeout,
        DetachedDelivery as DetachedDelivery,
        DistributionRefused as DistributionRefused,
        EmbeddedServerError as EmbeddedServerError,
        HandlerFailed as HandlerFailed,
        HandlerNotRun as HandlerNotRun,
        HandlerTimeout as HandlerTimeout,
        InfrastructureError as InfrastructureError,
        InvalidDeclaration as InvalidDeclaration,
        InvalidExpansion as InvalidExpansion,
        InvalidExport as InvalidExport,
        InvalidMessage as InvalidMessage,
        InvalidPolicy as InvalidPolicy,
        InvalidResult as InvalidResult,
        InvalidSchedule as InvalidSchedule,
        InvalidSettings as InvalidSettings,
        InvalidStepInput as InvalidStepInput,
        InvalidWorkflow as InvalidWorkflow,
        LeaseHeld as LeaseHeld,
        LeaseLost as LeaseLost,
        LeaseTaken as LeaseTaken,
        MailboxFull as MailboxFull,
        MessageTooLarge as MessageTooLarge,
        NoAgents as NoAgents,
        NoCandidate as NoCandidate,
        NoOwner as NoOwner,
        NoVoters as NoVoters,
        Nondeterministic as Nondeterministic,
        NotDecided as NotDecided,
        NotEnoughReplies as NotEnoughReplies,
        NotSupervised as NotSupervised,
        OrchestratorError as OrchestratorError,
        OutdatedWorker as OutdatedWorker,
        OwnerGone as OwnerGone,
        PoolEmpty as PoolEmpty,
        ReplacementFailed as ReplacementFailed,
        ResultNotStored as ResultNotStored,
        ResultTooLarge as ResultTooLarge,
        RunEnded as RunEnded,
        ScheduleExists as ScheduleExists,
        SendFailed as SendFailed,
        StepFailed as StepFailed,
        StepGoesOn as StepGoesOn,
        SuspensionCaught as SuspensionCaught,
        TooManyCalls as TooManyCalls,
        UnknownAgent as UnknownAgent,
        UnknownBallot as UnknownBallot,
        UnknownDeadLetter as UnknownDeadLetter,
        UnknownDelivery as UnknownDelivery,
        UnknownHierarchy as UnknownHierarchy,
        UnknownMessage as UnknownMessage,
        UnknownSchedule as UnknownSchedule,
        UnknownWorkflow as UnknownWorkflow,
        UnreadableKey as UnreadableKey,
        UnsuitableRedis as UnsuitableRedis,
        UntrackedDelivery as UntrackedDelivery,
        WorkflowExists as WorkflowExists,
    )
    from orchestrator.core.message import Message as Message
    from orchestrator.core.policies.policy import (
        Constant as Constant,
        Exponential as Exponential,
        Linear as Linear,
        OnError as OnError,
        Retry as Retry,
        WhenDown as WhenDown,
        WhenOpen as WhenOpen,
    )
    from orchestrator.core.settings import (
        Settings as Settings,
        load_settings as load_settings,
    )
    from orchestrator.core.workflows.cancelled_step import CancelledStep as CancelledStep
    from orchestrator.core.workflows.needs import Needs as Needs
    from orchestrator.deadletters.replay import Canary as Canary
    from orchestrator.sending.broadcast import (
        Refusal as Refusal,
        Strategy as Strategy,
    )
    from orchestrator.sending.calls.asked import (
        Asked as Asked,
        Replies as Replies,
    )
    from orchestrator.sending.calls.call import FallbackDelivery as FallbackDelivery
    from orchestrator.sending.calls.fallbacks import (
        Ask as Ask,
        Send as Send,
        Stale as Stale,
        Value as Value,
    )
    from orchestrator.sending.deliveries import Deliveries as Deliveries
    from orchestrator.sending.delivery import (
        CancelResult as CancelResult,
        Delivery as Delivery,
        Status as Status,
    )
    from orchestrator.sending.report import (
        Receipt as Receipt,
        Report as Report,
    )
    from orchestrator.transport.endings.errors_in_backend import (
        MessageDropped as MessageDropped,
        PoisonMessage as PoisonMessage,
        SettlementFailed as SettlementFailed,
    )
    from orchestrator.workflows.definition import (
        Limit as Limit,
        Workflow as Workflow,
    )
    from orchestrator.workflows.functions.context import WorkflowContext as WorkflowContext
    from orchestrator.workflows.references import ITEM as ITEM
    from orchestrator.workflows.run import Run as Run
    # isort: on

# Imported when first used, because `orchestrator health` must not wait for Celery and pydantic. A test checks that the
# names are those above.
_NAMES = {
    "orchestrator.agents.agent": ("Agent",),
    "orchestrator.agents.context": ("Context",),
    "orchestrator.agents.expand": ("Expand",),
    "orchestrator.agents.handles": ("handles",),
    "orchestrator.agents.periodic": (
        "Fire",
        "cron",
        "every",
    ),
    "orchestrator.agents.replies": ("replies",),
    "orchestrator.agents.step_context": ("StepContext",),
    "orchestrator.agents.votes": ("votes",),
    "orchestrator.app": ("Orchestrator",),
    "orchestrator.coordination.ballots.ballot": ("Ballot",),
    "orchestrator.coordination.distribution.distributor": ("FoundAgent",),
    "orchestrator.coordination.distribution.hierarchies": ("Hierarchy",),
    "orchestrator.coordination.distribution.report": ("DistributionReport",),
    "orchestrator.core.admission.bulkhead": ("Bulkhead",),
    "orchestrator.core.admission.concurrency": ("Concurrency",),
    "orchestrator.core.admission.flow_policy": (
        "Breaker",
        "Mailbox",
    ),
    "orchestrator.core.calls.hedge": ("Hedge",),
    "orchestrator.core.calls.reply": ("Reply",),
    "orchestrator.core.coordination.ballot_rules": (
        "Majority",
        "Quorum",
        "Unanimous",
        "Weighted",
    ),
    "orchestrator.core.coordination.decision": (
        "Decision",
        "Vote",
    ),
    "orchestrator.core.coordination.distribution": ("DistributionStrategy",),
    "orchestrator.core.coordination.term": ("Term",),
    "orchestrator.core.deliveries.down": ("Down",),
    "orchestrator.core.deliveries.outcome": (
        "Cancelled",
        "Dead",
        "Expired",
        "Handled",
        "Outcome",
    ),
    "orchestrator.core.errors": (
        "AgentDown",
        "AgentError",
        "BallotExists",
        "BarrierBroken",
        "BroadcastRefused",
        "BrokenKey",
        "BrokerUnavailable",
        "BulkheadFull",
        "CallNotDeployed",
        "CallWouldDeadlock",
        "CallerError",
        "CircuitOpen",
        "DeadlinePassed",
        "DeliveryTimeout",
        "DetachedDelivery",
        "DistributionRefused",
        "EmbeddedServerError",
        "HandlerFailed",
        "HandlerNotRun",
        "HandlerTimeout",
        "InfrastructureError",
        "InvalidDeclaration",
        "InvalidExpansion",
        "InvalidExport",
        "InvalidMessage",
        "InvalidPolicy",
        "InvalidResult",
        "InvalidSchedule",
        "InvalidSettings",
        "InvalidStepInput",
        "InvalidWorkflow",
        "LeaseHeld",
        "LeaseLost",
        "LeaseTaken",
        "MailboxFull",
        "MessageTooLarge",
        "NoAgents",
        "NoCandidate",
        "NoOwner",
        "NoVoters",
        "Nondeterministic",
        "NotDecided",
        "NotEnoughReplies",
        "NotSupervised",
        "OrchestratorError",
        "OutdatedWorker",
        "OwnerGone",
        "PoolEmpty",
        "ReplacementFailed",
        "ResultNotStored",
        "ResultTooLarge",
        "RunEnded",
        "ScheduleExists",
        "SendFailed",
        "StepFailed",
        "StepGoesOn",
        "SuspensionCaught",
        "TooManyCalls",
        "UnknownAgent",
        "UnknownBallot",
        "UnknownDeadLetter",
        "UnknownDelivery",
        "UnknownHierarchy",
        "UnknownMessage",
        "UnknownSchedule",
        "UnknownWorkflow",
        "UnreadableKey",
        "UnsuitableRedis",
        "UntrackedDelivery",
        "WorkflowExists",
    ),
    "orchestrator.core.message": ("Message",),
    "orchestrator.core.policies.policy": (
        "Constant",
        "Exponential",
        "Linear",
        "OnError",
        "Retry",
        "WhenDown",
        "WhenOpen",
    ),
    "orchestrator.core.settings": (
        "Settings",
        "load_settings",
    ),
    "orchestrator.core.workflows.cancelled_step": ("CancelledStep",),
    "orchestrator.core.workflows.needs": ("Needs",),
    "orchestrator.deadletters.replay": ("Canary",),
    "orchestrator.sending.broadcast": (
        "Refusal",
        "Strategy",
    ),
    "orchestrator.sending.calls.asked": (
        "Asked",
        "Replies",
    ),
    "orchestrator.sending.calls.call": ("FallbackDelivery",),
    "orchestrator.sending.calls.fallbacks": (
        "Ask",
        "Send",
        "Stale",
        "Value",
    ),
    "orchestrator.sending.deliveries": ("Deliveries",),
    "orchestrator.sending.delivery": (
        "CancelResult",
        "Delivery",
        "Status",
    ),
    "orchestrator.sending.report": (
        "Receipt",
        "Report",
    ),
    "orchestrator.transport.endings.errors_in_backend": (
        "MessageDropped",
        "PoisonMessage",
        "SettlementFailed",
    ),
    "orchestrator.workflows.definition": (
        "Limit",
        "Workflow",
    ),
    "orchestrator.workflows.functions.context": ("WorkflowContext",),
    "orchestrator.workflows.references": ("ITEM",),
    "orchestrator.workflows.run": ("Run",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Here, because it costs a third of what this package needs otherwise.
        from importlib.metadata import version

        globals()[name] = version("celery-orchestrator")
        return globals()[name]
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
