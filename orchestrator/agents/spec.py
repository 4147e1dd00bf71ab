"""The checked declaration of an agent, and the calls of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agents.agent import Agent
from orchestrator.agents.context import Context
from orchestrator.agents.periodic import fire_of
from orchestrator.agents.replies import ReplyFields
from orchestrator.agents.singleton import TermFields, singleton_election
from orchestrator.agents.votes import DecisionFields, checked_vote
from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.calls.reply import Reply
from orchestrator.core.deliveries.down import Down
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.message import Message
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.core.schedules.definition import ScheduleDefinition


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler of an agent."""

    message: type[Message]
    method: str
    policy: Policy
    #: Whether the method has a second parameter, for the context.
    takes_context: bool
    #: Whether a schedule calls it, with a :class:`Fire` in the place of the message.
    is_periodic: bool = False
    #: Whether it is called with a :class:`Reply`.
    is_reply: bool = False
    #: Whether callers may have it run twice at once.
    is_idempotent: bool = False
    #: Whether it votes on the message.
    is_vote: bool = False

    @property
    def needs_context(self) -> bool:
        """Whether a worker has to make a context: a fire is read from its metadata, also for a method without one."""
        return self.takes_context or self.is_periodic


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A checked declaration."""

    name: str
    cls: type[Agent]
    policy: Policy
    handlers: Mapping[str, HandlerSpec]
    flow: Flow
    down_takes_context: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    #: The schedules of its periodic methods.
    schedules: tuple[ScheduleDefinition, ...] = ()
    #: What it offers, sorted.
    capabilities: tuple[str, ...] = ()
    singleton: bool = False
    bulkhead: Bulkhead | None = None
    concurrency: Concurrency | None = None

    @property
    def election(self) -> str:
        """The election whose leader alone claims this agent's messages; empty if all who host it do."""
        return singleton_election(self.name) if self.singleton else ""

    @property
    def queue(self) -> str:
        """The agent's mailbox."""
        return self.name

    def task_name(self, message: str) -> str:
        """The Celery task that executes this message."""
        return f"{self.name}.{message}"

    def untracked(self, message: str) -> Supervision:
        """Supervision of a message without a declared handler, such as a DOWN; its outcome is not recorded."""
        policy = self.timeouts.merged(self.down_task, self.name, ("agent", self.policy))
        timeout_s = self.timeouts.scaled(policy.timeout_s)
        return Supervision(policy.retry, policy.on_error, self.name, message, track=False, timeout_s=timeout_s)

    def takes_message_alone(self, handler: HandlerSpec) -> bool:
        """Whether :meth:`call` does no more than call the method with the message."""
        made_of = (TermFields, ReplyFields, DecisionFields)
        return not (
            handler.takes_context or handler.is_periodic or handler.is_vote or issubclass(handler.message, made_of)
        )

    def call(self, agent: Agent, handler: HandlerSpec, message: Message, context: Context | None) -> Any:
        """Call a handler, with the context if it takes one."""
        method = getattr(agent, handler.method)
        if handler.is_periodic:
            fire = fire_of({} if context is None else context.metadata)
            return method(fire, context) if handler.takes_context else method(fire)
        if isinstance(message, TermFields):
            term = message.term()
            return method(term, context) if handler.takes_context else method(term)
        if isinstance(message, ReplyFields):
            reply = Reply.from_wire(dict(message))
            return method(reply, context) if handler.takes_context else method(reply)
        if isinstance(message, DecisionFields):
            decision = message.decision()
            return method(decision, context) if handler.takes_context else method(decision)
        returned = method(message, context) if handler.takes_context else method(message)
        return checked_vote(f"{self.name}.{handler.method}", returned) if handler.is_vote else returned

    @property
    def down_task(self) -> str:
        """The Celery task that executes :meth:`Agent.on_down`."""
        return f"{self.name}.on_down"

    def call_down(self, agent: Agent, down: Down, context: Context) -> None:
        """Call :meth:`Agent.on_down`, with the context if it takes one."""
        on_down: Callable[..., None] = agent.on_down
        if self.down_takes_context:
            on_down(down, context)
        else:
            on_down(down)
