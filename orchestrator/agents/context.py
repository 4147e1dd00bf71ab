"""The context of a handler: the delivery, the attempt, and the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Unpack

from orchestrator.agents.cancellation import never
from orchestrator.agents.periodic import scheduled_for_in
from orchestrator.agents.singleton import singleton_election
from orchestrator.agents.step_context import StepContext
from orchestrator.core.calls.conversation import Conversation
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidPolicy, NoOwner, NotSupervised
from orchestrator.core.message import Message
from orchestrator.core.policies.policy import OnError, Retry, WhenDown
from orchestrator.core.schedules.options import PeriodicOptions
from orchestrator.core.secrets.masked_repr import summary
from orchestrator.core.spelling.option_names import named_arguments

if TYPE_CHECKING:
    from orchestrator.agents.agent import Agent
    from orchestrator.app import Orchestrator
    from orchestrator.schedules.redis.owned import OwnedSchedules


def _none() -> Any:
    return None


@named_arguments
@dataclass(frozen=True, slots=True)
class Context:
    """The second argument of a handler, if it takes one."""

    #: The delivery's id.
    id: str
    agent: str
    #: 1 for the first attempt.
    attempt: int
    #: The worker that runs this, as Celery names it.
    worker: str
    #: Whether the message may have been handled before, by a worker that died.
    redelivered: bool
    #: What the sender attached.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The fencing token, which grows from each attempt of a delivery to the next, wherever they run. Another system
    #: should store it with what a handler writes, and refuse writes with a lower one: then an attempt that was declared
    #: dead by mistake, and was repeated meanwhile, overwrites nothing.
    fence: int = 0
    #: Sends from a handler: ``context.orchestrator.send(…)``. Only a context that a test makes by hand may lack it.
    orchestrator: Orchestrator = field(default_factory=_none)
    #: The incarnation that runs this, as the registry names it.
    incarnation: str = ""
    #: The step of a workflow that this is; ``None`` if the message is of no workflow.
    workflow: StepContext | None = None
    #: Finds out whether this is cancelled; see :attr:`cancelled`.
    cancellation: Callable[[], bool] = never
    #: When this attempt has to end, by ``time.monotonic()``; see :meth:`remaining_s`.
    ends_at_s: float | None = None
    #: The conversation that the message belongs to; what is sent from here belongs to it, too.
    conversation: Conversation | None = None

    def __repr__(self) -> str:
        return summary(self, ("id", "agent", "attempt", "worker", "redelivered", "metadata"))

    @property
    def cancelled(self) -> bool:
        """Whether the delivery, or the run that it is a step of, was cancelled while this attempt runs.

        A long handler asks now and then, cleans up and returns. Redis is asked at most twice a second; while it is
        away, the last answer counts.
        """
        return self.cancellation()

    def remaining_s(self) -> float | None:
        """Seconds until this attempt has to end: its timeout, or the delivery's deadline if that is earlier.

        0 after that, where nothing interrupts it (pools of threads and greenlets). ``None`` if it has neither.
        A :meth:`Orchestrator.call` made here waits no longer than this, and its request has this as its deadline.
        """
        return None if self.ends_at_s is None else max(0.0, self.ends_at_s - monotonic())

    @property
    def term(self) -> Term | None:
        """The term in which this incarnation leads its singleton: its ``number`` is the fencing token of a singleton.

        ``None`` if it does not lead, because the agent is no singleton, or because this incarnation was declared dead.
        Each access reads it from Redis.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        known: Any = self.orchestrator
        term: Term | None = known and known.election(singleton_election(self.agent)).leader()
        # In eager mode the only process leads, and the context has no incarnation.
        leads = term is not None and (term.leader == self.incarnation or known.runtime.modes.is_eager)
        return term if leads else None

    @property
    def scheduled_for(self) -> datetime | None:
        """The nominal time that a schedule has sent this for; ``None`` if no schedule has."""
        return scheduled_for_in(self.metadata)

    @property
    def schedules(self) -> OwnedSchedules:
        """The schedules that this incarnation owns: they send to this agent, and end when the incarnation does.

        Raises:
            NoOwner: this context does not come from a worker.
        """
        known: Any = self.orchestrator
        if known is None:
            raise NoOwner
        return self.orchestrator.schedules.of_incarnation(self.incarnation, self.agent)

    def every(self, name: str, message: Message, *, every_s: float, **options: Unpack[PeriodicOptions]) -> None:
        """Have this agent sent a message every ``every_s`` seconds, until this incarnation ends.

        The same name again replaces the schedule. See :attr:`schedules` for the rest.

        Raises:
            NoOwner: this context does not come from a worker.
            OwnerGone: this incarnation was declared dead.
            InvalidSchedule: an option has a value that is not allowed.
            BrokerUnavailable: Redis is away.
        """
        self.schedules.register(name, message, every_s=every_s, **options)

    def monitor(self, target: str | type[Agent], tag: Any = "") -> int:
        """Monitor ``target`` for this incarnation; returns the monitor's ref.

        When the target has died, the agent's ``on_down`` is called.
        See :class:`orchestrator.monitors.monitors.Monitors`.

        Raises:
            NoOwner: this context does not come from a worker.
            OwnerGone: this incarnation was declared dead.
            InvalidPolicy: ``target`` or ``tag`` has a value that is not allowed.
            BrokerUnavailable: Redis is away.
        """
        known: Any = self.orchestrator
        if known is None:
            raise NoOwner
        return self.orchestrator.monitors.monitor(target, tag)

    def ask(
        self,
        agent: str | type[Agent],
        message: Message,
        *,
        timeout_s: float,
        then: Literal[True],
        tag: Any = None,
        on_death: Literal["again", "fail"] = "again",
    ) -> str:
        """Ask another agent, without waiting: the reply comes as a message to this agent; returns the ask's id.

        The method that is marked with ``@replies(TYPE)``, of the ``message``'s type, is called with one :class:`Reply`:
        the result, or why there is none, at the latest after ``timeout_s`` seconds (of which a sweep takes notice, so
        about a second later). It is mail: whichever worker hosts this agent by then handles it. ``tag``, JSON data
        of at most 1,000 characters, comes back with it.

        The request is attempted once and leaves no dead letter. If a worker dies while it has it, another one handles
        it, unless ``on_death`` is ``"fail"``: then the reply says so, as soon as the death is found. Its deadline is
        the end of the timeout, or the deadline of what is handled here, if that is earlier.

        Raises:
            NoOwner: this context does not come from a worker.
            InvalidDeclaration: this agent has no method for replies to that message.
            DeadlinePassed: the deadline of what is handled here has passed.
            OrchestratorError: as :meth:`Orchestrator.send`; nothing was asked.
        """
        known: Any = self.orchestrator
        if known is None:
            raise NoOwner("ask", "inside an agent's handler; elsewhere Orchestrator.call")
        if then is not True:
            raise InvalidPolicy("then", then, "True: the reply is a message to this agent")
        return self.orchestrator.runtime.asker.ask(self.agent, agent, message, timeout_s, tag, on_death)

    def ask_many(
        self,
        agent: str | type[Agent],
        messages: Iterable[Message],
        *,
        timeout_s: float,
        then: Literal[True],
        tags: Iterable[Any] | None = None,
        on_death: Literal["again", "fail"] = "again",
    ) -> list[str]:
        """Ask another agent by each of many messages, as :meth:`ask` does, in few round trips; returns the asks' ids.

        All are accepted when this returns. ``tags`` has one tag for each message.

        Raises:
            MailboxFull, CircuitOpen, BulkheadFull: flow control stopped it; ``accepted`` says after how many, which
                will have their replies.
            BrokerUnavailable: Redis did not accept it; of the last 100, whether they were asked is unknown.
            MessageTooLarge: one is larger than a message may be; those before it may have been asked.
            OrchestratorError: as :meth:`ask`; any other mistake of the caller is found before anything is asked.
        """
        known: Any = self.orchestrator
        if known is None:
            raise NoOwner("ask_many", "inside an agent's handler; elsewhere Orchestrator.call")
        if then is not True:
            raise InvalidPolicy("then", then, "True: the replies are messages to this agent")
        return self.orchestrator.runtime.asker.ask_many(self.agent, agent, messages, timeout_s, tags, on_death)

    def send_self(self, message: Message, *, countdown_s: float = 0.0) -> None:
        """Send a message to this agent, as Erlang's ``self() ! Message``: without retries, and untracked.

        If its handler fails, it becomes a dead letter at once, whatever ``on_error`` says. Otherwise the policy of
        agent and handler applies, and it belongs to the trace of the current message. In eager mode it is handled
        before this returns.

        Raises:
            UnknownMessage: this agent does not handle that message.
            InvalidPolicy: ``message`` is no message, or the countdown is out of range.
            MailboxFull, CircuitOpen, BulkheadFull: flow control refuses it.
            BrokerUnavailable: Redis did not accept it.
        """
        known: Any = self.orchestrator
        if known is None:
            raise NotSupervised(f"the context of {self.agent!r} belongs to no Orchestrator")
        self.orchestrator.send(
            self.agent,
            message,
            retry=Retry(max_retries=0),
            on_error=OnError.DEAD_LETTER,
            countdown_s=countdown_s,
            when_down=WhenDown.QUEUE,
            track=False,
        )
