"""The declaration of an agent: a class with a name and a handler for each message."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from orchestrator.agents.context import Context
from orchestrator.agents.declaration_mistakes import called_method, mistaken_message, mistaken_settings
from orchestrator.agents.periodic import PERIODIC, Fire, fire_message, fire_of, periodic_definition
from orchestrator.agents.replies import REPLIES, ReplyFields, reply_message, unanswered_asks
from orchestrator.agents.singleton import TERM_MESSAGES, TermFields, singleton_election
from orchestrator.agents.votes import DECISION, VOTES, DecisionFields, checked_vote, vote_name
from orchestrator.core.bulkhead import Bulkhead
from orchestrator.core.cancelled_step import CancelledStep
from orchestrator.core.concurrency import Concurrency
from orchestrator.core.decision import Decision
from orchestrator.core.down import Down
from orchestrator.core.effective import Policy
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy
from orchestrator.core.flow_policy import Breaker, Flow, Mailbox
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.core.masked_repr import masked_repr
from orchestrator.core.message import Message, message_name
from orchestrator.core.placement import names_fault
from orchestrator.core.policy import OnError, Retry, WhenDown, WhenOpen
from orchestrator.core.reply import Reply
from orchestrator.core.schedule_definition import ScheduleDefinition
from orchestrator.core.secret_names import secret_names
from orchestrator.core.supervision import Supervision
from orchestrator.core.term import Term
from orchestrator.core.timeout_classes import allowed_seconds, seconds_of
from orchestrator.core.timeouts import Timeouts

logger = get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__orchestrator_handles__"

#: Names end up in Redis keys, queue names and command lines.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Agent:
    """Base of every agent.

    Subclass it, give it a ``name``, and mark a method per message with :func:`handles`. A worker makes one
    instance per process; handlers of one process may run at the same time where the pool has threads.
    """

    #: Its name for senders; also the name of its mailbox.
    name: ClassVar[str] = ""
    # Its policy, unless the handler, the settings or the send say otherwise; ``None`` leaves it to the defaults.
    #: How failed attempts are retried.
    retry: ClassVar[Retry | None] = None
    #: What happens to a message that has no attempt left.
    on_error: ClassVar[OnError | str | None] = None
    #: Longest time of one attempt (also as a class of ``timeout_classes``), and of all of them with their pauses.
    timeout_s: ClassVar[float | str | None] = None
    deadline_s: ClassVar[float | None] = None
    #: How long a message may wait for its first attempt.
    expires_s: ClassVar[float | None] = None
    #: Whether a message that has waited longer becomes a dead letter.
    dead_letter_expired: ClassVar[bool | None] = None
    #: 0 (first) to 9 (last).
    priority: ClassVar[int | None] = None
    #: Whether a message waits for an agent that is down, or is refused.
    when_down: ClassVar[WhenDown | str | None] = None
    #: Whether a message waits behind the agent's open breaker, or is refused.
    when_open: ClassVar[WhenOpen | str | None] = None
    #: How many messages may wait for it, and what happens to one more; ``None`` for no bound.
    mailbox: ClassVar[Mailbox | None] = None
    #: When its senders are refused because too many attempts fail; ``None`` for never.
    breaker: ClassVar[Breaker | None] = None
    #: How many requests to it may be in flight at a time, over all callers; ``None`` for any number.
    bulkhead: ClassVar[Bulkhead | None] = None
    #: How many of its messages run at a time over all workers, or of each value of a field; ``None`` for as many as
    #: there are slots.
    concurrency: ClassVar[Concurrency | None] = None
    #: What it offers to the steps of workflows that say what they need instead of an agent.
    capabilities: ClassVar[Collection[str]] = frozenset()
    #: Whether only one incarnation at a time, the elected leader, claims its messages. Its methods ``on_elected`` and
    #: ``on_deposed``, if it has them, are called with a :class:`Term`: the one that begins, and the one that has ended.
    singleton: ClassVar[bool] = False

    def on_down(self, down: Down, context: Context) -> None:
        """Called once for each monitor of this agent whose target has died; supervised like any handler.

        It may leave the context out. Any incarnation of the agent may be called; ``down.owner`` says which one made
        the monitor.
        """
        logger.warning("agent %s has no on_down; the death of %s is ignored (%s)", self.name, down.target, down)

    def on_cancelled(self, cancelled: CancelledStep, context: Context) -> None:
        """Called once for each step of a cancelled run that a worker of this agent has, or had begun.

        It is supervised like any handler, and may leave the context out. Any incarnation of the agent may be called,
        also while the step's handler still runs, which sees ``context.cancelled``. Nothing is sent to an agent that
        does not have this method.
        """


@dataclass(frozen=True, slots=True)
class _Handles:
    message: type[Message]
    policy: Mapping[str, Any]
    is_idempotent: bool = False


def handles(
    message: type[Message],
    *,
    retry: Retry | None = None,
    on_error: OnError | str | None = None,
    timeout_s: float | str | None = None,
    deadline_s: float | None = None,
    expires_s: float | None = None,
    priority: int | None = None,
    when_down: WhenDown | str | None = None,
    when_open: WhenOpen | str | None = None,
    dead_letter_expired: bool | None = None,
    idempotent: bool = False,
) -> Callable[[F], F]:
    """Mark a method as the handler of ``message``; it is called with the message and a :class:`Context`.

    A handler without a second parameter is called with the message alone. The options are those of :class:`Agent`,
    for this message. An ``idempotent`` handler may run twice for one request, also at once, so callers may hedge.

    Raises:
        InvalidDeclaration: ``message`` is not a :class:`Message` class, or ``idempotent`` no bool.
    """
    if not (isinstance(message, type) and issubclass(message, Message)):
        raise InvalidDeclaration(f"@handles({masked_repr(message)}): allowed: a subclass of Message")
    if not isinstance(idempotent, bool):
        raise InvalidDeclaration(
            f"@handles({message.__name__}, idempotent={masked_repr(idempotent)}); allowed: True or False"
        )

    policy = {
        "retry": retry,
        "on_error": on_error,
        "timeout_s": timeout_s,
        "deadline_s": deadline_s,
        "expires_s": expires_s,
        "priority": priority,
        "when_down": when_down,
        "when_open": when_open,
        "dead_letter_expired": dead_letter_expired,
    }

    def mark(method: F) -> F:
        setattr(method, _MARK, _Handles(message, policy, idempotent))
        return method

    return mark


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler of an agent."""

    message: type[Message]
    method: str
    policy: Policy
    wants_context: bool
    #: Whether a schedule calls it, with a :class:`Fire` in the place of the message, and whether with the context.
    is_periodic: bool = False
    takes_context: bool = True
    #: Whether it is called with a :class:`Reply`.
    is_reply: bool = False
    #: Whether callers may have it run twice at once.
    is_idempotent: bool = False
    #: Whether it votes on the message.
    is_vote: bool = False


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A checked declaration."""

    name: str
    cls: type[Agent]
    policy: Policy
    handlers: Mapping[str, HandlerSpec]
    flow: Flow
    down_wants_context: bool = True
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

    def call(self, agent: Agent, handler: HandlerSpec, message: Message, context: Context | None) -> Any:
        """Call a handler, with the context if it takes one."""
        method = getattr(agent, handler.method)
        if handler.is_periodic:
            fire = fire_of({} if context is None else context.metadata)
            return method(fire, context) if handler.takes_context else method(fire)
        if isinstance(message, TermFields):
            term = message.term()
            return method(term, context) if handler.wants_context else method(term)
        if isinstance(message, ReplyFields):
            reply = Reply.from_wire(dict(message))
            return method(reply, context) if handler.wants_context else method(reply)
        if isinstance(message, DecisionFields):
            decision = message.decision()
            return method(decision, context) if handler.wants_context else method(decision)
        returned = method(message, context) if handler.wants_context else method(message)
        return checked_vote(f"{self.name}.{handler.method}", returned) if handler.is_vote else returned

    @property
    def down_task(self) -> str:
        """The Celery task that executes :meth:`Agent.on_down`."""
        return f"{self.name}.on_down"

    def call_down(self, agent: Agent, down: Down, context: Context) -> None:
        """Call :meth:`Agent.on_down`, with the context if it takes one."""
        on_down: Callable[..., None] = agent.on_down
        if self.down_wants_context:
            on_down(down, context)
        else:
            on_down(down)


def inspect_agent(cls: type[Agent], timeouts: Timeouts | None = None) -> AgentSpec:
    """Check a declaration. The settings' ``timeouts`` say which classes of timeouts there are.

    Raises:
        InvalidDeclaration: it cannot be hosted; names the attribute or method, its value and what is allowed.
    """
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise InvalidDeclaration(f"{masked_repr(cls)} is not a subclass of Agent")
    if not isinstance(cls.name, str) or not _NAME.fullmatch(cls.name):
        raise InvalidDeclaration(
            f"{cls.__qualname__}.name={masked_repr(cls.name)}; allowed: letters, digits, '_', '.', '-', at most 100"
        )
    if cls.name == HOUSEKEEPING_QUEUE:
        raise InvalidDeclaration(
            f"{cls.__qualname__}.name={cls.name!r}; allowed: any other, for this is the mailbox of the monitor manager"
        )
    timeouts = timeouts or Timeouts()
    policy = _policy(cls.__qualname__, {f.name: getattr(cls, f.name) for f in fields(Policy)}, timeouts)
    for name, kind in (
        ("mailbox", Mailbox),
        ("breaker", Breaker),
        ("bulkhead", Bulkhead),
        ("concurrency", Concurrency),
    ):
        if not isinstance(getattr(cls, name), kind | None):
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{name}={masked_repr(getattr(cls, name))}; allowed: a {kind.__name__}"
            )
    if (fault := names_fault(cls.capabilities)) and not _is_empty(cls.capabilities):
        raise InvalidDeclaration(f"{cls.__qualname__}.capabilities={masked_repr(cls.capabilities)}; {fault}")
    if mistakes := list(mistaken_settings(Agent, cls)):
        raise InvalidDeclaration("; ".join(mistakes))
    marks = {getattr(method, _MARK).message.__name__ for _, method in inspect.getmembers(cls, _is_handler)}
    handlers: dict[str, HandlerSpec] = {}
    for method_name, method in inspect.getmembers(cls, callable):
        mark = getattr(method, _MARK, None)
        if mark is None:
            continue
        name = message_name(mark.message)
        if name in handlers:
            raise InvalidDeclaration(
                f"{cls.__qualname__}: {handlers[name].method} and {method_name} both handle {name}"
            )
        if annotated := mistaken_message(method, mark.message, marks):
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{method_name} handles {name}, but takes {annotated}; allowed: {name}"
            )
        own = _policy(f"{cls.__qualname__}.{method_name}", mark.policy, timeouts)
        wants_context = _wants_context(cls, method)
        handlers[name] = HandlerSpec(mark.message, method_name, own, wants_context, is_idempotent=mark.is_idempotent)
    schedules = []
    for method_name, method in inspect.getmembers(cls, callable):
        periodic = getattr(method, PERIODIC, None)
        if periodic is None:
            continue
        if method_name in handlers or hasattr(method, _MARK):
            raise InvalidDeclaration(f"{cls.__qualname__}.{method_name} handles a message and runs by a schedule")
        takes_context = _wants_context(cls, method)
        if annotated := mistaken_message(method, Fire, handlers):
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{method_name} runs by a schedule, but takes {annotated}; allowed: Fire"
            )
        message = fire_message(method_name)
        # The context says which fire it is.
        handlers[method_name] = HandlerSpec(message, method_name, Policy(), True, True, takes_context)
        schedules.append(periodic_definition(cls.name, method_name, periodic))
    _add_replies(cls, handlers, timeouts)
    _add_votes(cls, handlers, timeouts)
    _add_terms(cls, handlers)
    _add_on_cancelled(cls, handlers)
    if not handlers:
        raise InvalidDeclaration(f"{cls.__qualname__} has no handler; mark a method with @handles(SomeMessage)")
    flow = Flow(cls.mailbox, cls.breaker)
    down = _wants_context(cls, called_method(cls, "on_down"))
    capabilities = tuple(sorted(set(cls.capabilities)))
    _check_concurrency(cls, handlers)
    more = tuple(schedules), capabilities, cls.singleton, cls.bulkhead, cls.concurrency
    return AgentSpec(cls.name, cls, policy, handlers, flow, down, timeouts, *more)


def _add_on_cancelled(cls: type[Agent], handlers: dict[str, HandlerSpec]) -> None:
    method = called_method(cls, "on_cancelled")
    if method is Agent.on_cancelled:
        return
    where, name = f"{cls.__qualname__}.on_cancelled", message_name(CancelledStep)
    if name in handlers:
        raise InvalidDeclaration(f"{where} and {handlers[name].method} both handle {name}")
    if annotated := mistaken_message(method, CancelledStep, handlers):
        raise InvalidDeclaration(f"{where} takes {annotated}; allowed: {name}")
    handlers[name] = HandlerSpec(CancelledStep, "on_cancelled", Policy(), _wants_context(cls, method))


def _check_concurrency(cls: type[Agent], handlers: Mapping[str, HandlerSpec]) -> None:
    key = cls.concurrency.key if cls.concurrency is not None else ""
    if not key:
        return
    where = f"{cls.__qualname__}.concurrency has key={key!r}"
    messages = [handler.message for handler in handlers.values() if key in handler.message.model_fields]
    if not messages:
        raise InvalidDeclaration(f"{where}; allowed: a field of a message that it handles")
    if any(key in secret_names(message) for message in messages):
        raise InvalidDeclaration(f"{where}, a secret; allowed: a field that Redis may have in plain text")


def _add_votes(cls: type[Agent], handlers: dict[str, HandlerSpec], timeouts: Timeouts) -> None:
    for method_name, method in inspect.getmembers(cls, callable):
        mark = getattr(method, VOTES, None)
        if mark is None:
            continue
        where, what = f"{cls.__qualname__}.{method_name}", message_name(mark.message)
        if any(hasattr(method, other) for other in (_MARK, PERIODIC, REPLIES)):
            raise InvalidDeclaration(f"{where} votes, and handles a message, gets replies or runs by a schedule")
        name = vote_name(what)
        if name in handlers:
            raise InvalidDeclaration(
                f"{cls.__qualname__}: {handlers[name].method} and {method_name} both vote on {what}"
            )
        if annotated := mistaken_message(method, mark.message, ()):
            raise InvalidDeclaration(f"{where} votes on {what}, but takes {annotated}; allowed: {what}")
        own = _policy(where, mark.policy, timeouts)
        handlers[name] = HandlerSpec(mark.message, method_name, own, _wants_context(cls, method), is_vote=True)
    on_decision: Any = called_method(cls, DECISION, may_be_none=True)
    if on_decision is None:
        return
    where = f"{cls.__qualname__}.{DECISION}"
    is_marked = any(hasattr(on_decision, other) for other in (_MARK, PERIODIC, REPLIES, VOTES))
    if not any(handler.is_vote for handler in handlers.values()):
        if is_marked:
            return
        raise InvalidDeclaration(f"{where}: never called; allowed: beside a method marked with @votes(SomeMessage)")
    if is_marked:
        raise InvalidDeclaration(
            f"{where} is called with decisions, and handles a message, votes or runs by a schedule"
        )
    if annotated := mistaken_message(on_decision, Decision, handlers):
        raise InvalidDeclaration(f"{where} is called with decisions, but takes {annotated}; allowed: Decision")
    handlers[DECISION] = HandlerSpec(DecisionFields, DECISION, Policy(), _wants_context(cls, on_decision))


def _is_empty(names: object) -> bool:
    return isinstance(names, Collection) and not isinstance(names, str) and not names


def _add_terms(cls: type[Agent], handlers: dict[str, HandlerSpec]) -> None:
    if not isinstance(cls.singleton, bool):
        raise InvalidDeclaration(f"{cls.__qualname__}.singleton={masked_repr(cls.singleton)}; allowed: True, False")
    for name, message in TERM_MESSAGES.items():
        method: Any = called_method(cls, name, may_be_none=True)
        if method is None:
            continue
        where = f"{cls.__qualname__}.{name}"
        if not cls.singleton:
            raise InvalidDeclaration(f"{where}: never called; allowed: with singleton = True")
        if name in handlers or hasattr(method, _MARK):
            raise InvalidDeclaration(f"{where} is called with a term, and handles a message or runs by a schedule")
        if annotated := mistaken_message(method, Term, handlers):
            raise InvalidDeclaration(f"{where} is called with a term, but takes {annotated}; allowed: Term")
        handlers[name] = HandlerSpec(message, name, Policy(), _wants_context(cls, method))


def _add_replies(cls: type[Agent], handlers: dict[str, HandlerSpec], timeouts: Timeouts) -> None:
    for method_name, method in inspect.getmembers(cls, callable):
        mark = getattr(method, REPLIES, None)
        if mark is None:
            continue
        where, what = f"{cls.__qualname__}.{method_name}", message_name(mark.message)
        if hasattr(method, _MARK) or hasattr(method, PERIODIC):
            raise InvalidDeclaration(f"{where} gets replies, and handles a message or runs by a schedule")
        message = reply_message(mark.message)
        name = message_name(message)
        if name in handlers:
            other = handlers[name].method
            raise InvalidDeclaration(f"{cls.__qualname__}: {other} and {method_name} both get the replies to {what}")
        if annotated := mistaken_message(method, Reply, handlers):
            raise InvalidDeclaration(f"{where} gets replies, but takes {annotated}; allowed: Reply")
        own = _policy(where, mark.policy, timeouts)
        handlers[name] = HandlerSpec(message, method_name, own, _wants_context(cls, method), is_reply=True)
    if not any(handler.is_reply for handler in handlers.values()):
        for asking in unanswered_asks(cls):
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{asking} asks with then=True, but no method gets the reply; "
                "allowed: a method marked with @replies(SomeMessage)"
            )


def _is_handler(member: Any) -> bool:
    return callable(member) and hasattr(member, _MARK)


def _wants_context(cls: type[Agent], method: Callable[..., Any]) -> bool:
    if inspect.iscoroutinefunction(method):
        raise InvalidDeclaration(f"{cls.__qualname__}.{method.__name__} is async; Celery's pools run plain functions")
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise InvalidDeclaration(f"{cls.__qualname__}.{method.__name__} yields; Celery's pools run plain functions")
    parameters = len(inspect.signature(method).parameters)
    if parameters not in (2, 3):
        raise InvalidDeclaration(
            f"{cls.__qualname__}.{method.__name__} takes {parameters - 1} arguments; "
            "allowed: message, or message and context"
        )
    return parameters == 3


def _policy(where: str, values: Mapping[str, Any], timeouts: Timeouts) -> Policy:
    named = values["timeout_s"]
    try:
        if not isinstance(named, str):
            return Policy(**values)
        timeout_s = seconds_of(named, timeouts.classes)
        if timeout_s is None:
            raise InvalidPolicy("timeout_s", named, allowed_seconds(named, timeouts.classes))
        return Policy(**{**values, "timeout_s": timeout_s})
    except InvalidPolicy as error:
        raise InvalidDeclaration(f"{where}: {error}") from None
