"""`Orchestrator`: the one object a user makes. The wiring is in ``wiring/``, the rules are in the packages.

Importing this module imports neither Celery nor the wiring: both come with the first instance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from orchestrator.core.spelling.option_names import named_arguments

if TYPE_CHECKING:
    from celery import Celery, Task
    from celery.canvas import Signature

    from orchestrator.agents.agent import Agent
    from orchestrator.agents.breakers import Breakers
    from orchestrator.agents.spec import AgentSpec
    from orchestrator.celery_types import Canvas
    from orchestrator.coordination.ballots.ballot import Ballot
    from orchestrator.coordination.barriers.barrier import Barrier
    from orchestrator.coordination.coordination import Coordination
    from orchestrator.coordination.distribution.distributor import FoundAgent
    from orchestrator.coordination.distribution.hierarchies import Hierarchies, Hierarchy
    from orchestrator.coordination.distribution.hierarchies import Structure as HierarchyStructure
    from orchestrator.coordination.distribution.report import DistributionReport
    from orchestrator.coordination.election import Election
    from orchestrator.coordination.lease import Lease
    from orchestrator.coordination.pools import Pool, Semaphore
    from orchestrator.core.calls.conversation import Conversation
    from orchestrator.core.calls.hedge import Hedge
    from orchestrator.core.coordination.ballot_rules import Rule
    from orchestrator.core.coordination.distribution import DistributionStrategy
    from orchestrator.core.message import Message
    from orchestrator.core.policies.policy import Retry
    from orchestrator.core.settings import Settings
    from orchestrator.core.workflows.needs import Needs
    from orchestrator.deadletters.log import DeadLetters
    from orchestrator.monitors.monitors import Monitors
    from orchestrator.registry.mailboxes import MailboxState
    from orchestrator.registry.registry import Registry
    from orchestrator.schedules.schedules import Schedules
    from orchestrator.sending.broadcast import Strategy
    from orchestrator.sending.calls.asked import Asked, Replies
    from orchestrator.sending.calls.call_counts import CallCounts
    from orchestrator.sending.calls.fallbacks import FallbackArgument
    from orchestrator.sending.deliveries import Deliveries
    from orchestrator.sending.delivery import Delivery
    from orchestrator.sending.ledger import LedgerRow
    from orchestrator.sending.report import Report
    from orchestrator.sending.send_options import (
        BroadcastOptions,
        DistributeOptions,
        SendManyOptions,
        SendOptions,
    )
    from orchestrator.timeouts.timeouts import Timeouts
    from orchestrator.transport.redis.dataset import DatasetRecord
    from orchestrator.wiring.runtime import Runtime
    from orchestrator.workflows.definition import CanvasOptions
    from orchestrator.workflows.functions.context import WorkflowContext
    from orchestrator.workflows.functions.function import FunctionOptions, WorkflowFunction
    from orchestrator.workflows.run import Run
    from orchestrator.workflows.workflows import Workflows

P = ParamSpec("P")
R = TypeVar("R")


@named_arguments
class Orchestrator:
    """Supervision for a Celery app: ``orchestrator = Orchestrator(app)``, before or after the app is configured.

    Sets the transport, late acknowledgement and JSON as the only content, has beat start the monitor manager's work,
    and has every task of the app executed and settled under supervision. The app's tasks, canvas, Flower and tests
    work as before.

    The app's own configuration is read when Celery reads it. What in it cannot work is refused by the first send and
    by a worker's start.

    Raises:
        InvalidSettings: a setting of this library has a bad value, two contradict each other, or the app has an
            Orchestrator already.
    """

    def __init__(self, app: Celery, settings: Settings | None = None) -> None:
        # Here, so that a command or a test that makes no Orchestrator starts promptly.
        from orchestrator.core.errors import InvalidSettings
        from orchestrator.core.settings import load_settings
        from orchestrator.wiring.installation import install
        from orchestrator.wiring.runtime import Runtime

        if getattr(app, "orchestrator", None) is not None:
            raise InvalidSettings(
                [f"Orchestrator({app!r}): the app has one already; allowed: one, as app.orchestrator"]
            )
        self.app = app
        self.settings: Settings = settings or load_settings()
        #: The wiring: for boot steps and the command line, and not part of the public interface.
        self.runtime: Runtime = Runtime(app, self.settings)
        app.orchestrator = self
        install(self.runtime)

    # -- agents

    def host(self, *agents: type[Agent]) -> None:
        """Make agents part of this app: workers of the app can host them, senders know them.

        Raises:
            InvalidDeclaration: a class is not a valid declaration, or its name is taken.
            InvalidSettings: a timeout and a deadline that meet here contradict each other.
        """
        from orchestrator.worker.hosting import host

        host(self, agents)

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        """The agents declared in this process, by name."""
        return dict(self.runtime.directory.declared)

    # -- sending

    @overload
    def send(self, recipient: str | type[Agent], message: Message, **options: Unpack[SendOptions]) -> Delivery: ...

    @overload
    def send(self, recipient: Canvas, message: None = None, **options: Unpack[CanvasOptions]) -> Run: ...

    @overload
    def send(self, recipient: Signature | Task, message: None = None, **options: Unpack[SendOptions]) -> Delivery: ...

    def send(self, recipient: Any, message: Message | None = None, **options: Any) -> Delivery | Run:
        """Send a message to an agent, or a Celery signature (or task, without arguments), under supervision.

        A canvas (a chain, a group, a chord, chunks, a map) is started as a workflow, and its run is returned; see
        :meth:`Workflow.from_canvas`. It takes the options of :class:`StepOptions`, for each of its tasks, and
        ``deadline_s``, for its run.

        The options below override those of the settings, the handler and the agent. In eager mode the message is
        handled before this returns, and ``countdown_s`` and ``eta`` are ignored.

        Options:
            retry: a :class:`Retry`: how often, and after which pauses, a failed attempt is retried.
            on_error: ``"dead_letter"``, ``"ignore"`` or ``"raise"``, when the last attempt has failed.
            timeout_s: how long one attempt may take.
            deadline_s: when all attempts must have ended, in seconds from now.
            deadline: ``"inherit"``: in a handler, the message has the deadline of what is handled, or its own if that
                is earlier.
            expires_s: how long the message may wait for its first attempt.
            dead_letter_expired: whether a message that waited too long becomes a dead letter.
            countdown_s, eta: the message is not handled before this number of seconds has passed, or before this time.
            priority: as in Celery, 0 to 9.
            when_down: ``"queue"`` or ``"error"``, if no living worker hosts the agent.
            when_open: ``"error"`` or ``"queue"``, if the agent's circuit breaker is open. Queued messages are let go in
                their order, as the breaker admits them.
            metadata: JSON data that the handler sees in its context.
            track: false records no outcome to wait for, which makes the send cheaper.
            idempotency_key: of sends to one recipient with the same key the first is accepted. The others return its
                delivery, while it is pending and for ``idempotency_ttl_s`` after its outcome.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            UnknownMessage: the agent does not handle that message.
            InvalidMessage: the message is not JSON data.
            InvalidPolicy: an option has a bad value.
            InvalidWorkflow: a canvas has parts that have no counterpart in a workflow.
            AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
            MailboxFull: the agent's mailbox is bounded, full, and not one that drops.
            CircuitOpen: the agent's circuit breaker is open.
            BrokerUnavailable: Redis did not accept the message.
            NotSupervised: the app's broker is not one that this library supervises.
            SendFailed: eager mode and ``on_error="raise"``, and the message was not handled.
            DeadlinePassed: it inherits a deadline that has passed.
        """
        if not isinstance(recipient, (str, type)):
            from orchestrator.workflows.canvas import is_canvas

            if is_canvas(recipient):
                return self.runtime.interfaces.workflows.send(recipient, message, options)
        return self.runtime.sender.send(recipient, message, options)  # type: ignore[arg-type]

    def call(
        self,
        recipient: str | type[Agent] | Signature | Task,
        message: Message | None = None,
        *,
        timeout_s: float,
        fallback: FallbackArgument = False,
        on_death: Literal["again", "fail"] = "again",
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        on_deadlock: Literal["warn", "error"] = "warn",
    ) -> Any:
        """Send a request and wait for its reply: what the handler returned, as JSON data.

        A request is attempted once and leaves no dead letter, because its caller gets the error. ``timeout_s`` is
        multiplied by the settings' ``timeout_factor``. In a handler it waits no longer than the attempt may take, and
        what it asks for has this as its deadline.

        Options:
            fallback: what a request that does not succeed falls back to: a list of :class:`Ask`, :class:`Stale`,
                :class:`Value` and :class:`Send`, of which the first that works is returned; true, or the options of a
                :meth:`send`, for a ``Send``. What was sent instead is returned as a :class:`FallbackDelivery`.
            on_death: ``"again"``: if a worker dies while it has the request, another one runs it. ``"fail"``: it is not
                run again, not by ``retry`` either, and the error comes as soon as the death is found. ``hedge`` and a
                fallback ``Send`` are refused with it, because they would run the request a second time.
            retry: how often, and after which pauses, a request that fails is sent again within ``timeout_s``.
            hedge: when a copy of the request is sent although the first may still be answered; for handlers that are
                declared ``idempotent``. Retries and hedges together are at most a tenth of such calls.
            on_deadlock: what happens if a handler's call would wait for itself, because all slots that could answer it
                wait in calls: ``"warn"`` logs the ring, and waits until the timeout; ``"error"`` sends nothing.

        Raises:
            CallWouldDeadlock: it would wait for itself, and ``on_deadlock`` is ``"error"``.
            AgentDown: no living worker hosts the agent.
            DeliveryTimeout: there was no reply in time, whether that was noticed here or by the request's worker. The
                request was cancelled; if it had begun, it may still end.
            SendFailed: the request failed before its time was over.
            BulkheadFull: as many requests as the agent's bulkhead allows were in flight.
            DeadlinePassed: its time, or that of the handler that calls, was over before anything was sent.
            CallerError, BrokerUnavailable: as :meth:`send`.
        """
        return self.runtime.caller.call(recipient, message, timeout_s, fallback, on_death, retry, hedge, on_deadlock)

    def ask(
        self,
        recipient: str | type[Agent] | Signature | Task,
        message: Message | None = None,
        *,
        timeout_s: float,
        on_death: Literal["again", "fail"] = "again",
    ) -> Asked:
        """Send a request as :meth:`call` does, and go on: ``asked.reply()`` waits, ``asked.cancel()`` gives it up.

        An ask that nobody waits for ends with its deadline. To get the reply as a message, see :meth:`Context.ask`.

        Raises:
            AgentDown: no living worker hosts the agent.
            BulkheadFull: as many requests as the agent's bulkhead allows were in flight.
            CallerError, BrokerUnavailable: as :meth:`send`.
        """
        return self.runtime.caller.ask(recipient, message, timeout_s, on_death)

    def ask_all(
        self,
        agents: Iterable[str | type[Agent]],
        message: Message,
        *,
        timeout_s: float,
        need: int | None = None,
    ) -> Replies:
        """Ask many agents by the same message, and wait until ``need`` of them have replied, or all if it is not given.

        The other requests are cancelled then. It ends as soon as there cannot be enough replies any more.

        Raises:
            NotEnoughReplies: fewer than ``need`` have replied; its ``results`` and ``errors`` say who and why.
            CallerError, BrokerUnavailable: as :meth:`send`.
        """
        return self.runtime.caller.ask_all(agents, message, timeout_s, need)

    @contextmanager
    def conversation(
        self, agents: Iterable[str | type[Agent]] = (), data: Mapping[str, Any] | None = None
    ) -> Iterator[Conversation]:
        """Have what is sent in this context belong together: handlers see it as ``context.conversation``.

        So does what handlers send, and the replies that asks get. Each message carries the id, the names of the
        ``agents`` that take part (all that are told are known) and ``data``, at most 1,000 characters of JSON.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            InvalidPolicy: ``agents`` or ``data`` has a value that is not allowed.
        """
        from orchestrator.agents.conversations import begin_conversation
        from orchestrator.core.calls.conversation import within

        begun = begin_conversation(self.runtime.directory, agents, data)
        with within(begun):
            yield begun

    def send_many(
        self, recipient: str | type[Agent], messages: Iterable[Message], **options: Unpack[SendManyOptions]
    ) -> Deliveries:
        """Send many messages to one agent, in their order and in few round trips.

        Options are those of :meth:`send` but ``eta``, ``idempotency_key`` and ``idempotency_ttl_s``.

        Raises:
            MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many messages.
            OrchestratorError: as :meth:`send`; a caller's mistake is found before anything is sent.
        """
        return self.runtime.sender.send_many(recipient, messages, options)

    def broadcast(
        self,
        recipients: Iterable[str | type[Agent]],
        message: Message,
        *,
        strategy: Strategy | str = "best_effort",
        compensate: Message | None = None,
        **options: Unpack[BroadcastOptions],
    ) -> Report:
        """Send a copy of a message to each of many agents, in one step inside Redis.

        A recipient cannot take its copy if no living worker serves it, its mailbox is full or its circuit breaker is
        open. With ``all_or_nothing`` one such recipient stops the broadcast; with ``at_least_one`` it is stopped if
        all recipients are such; with ``best_effort`` they are left out, and the report names them. When a copy ends in
        anything but *handled*, every recipient that has handled its copy, or does so later, is sent ``compensate``;
        Redis does this, whether the sender lives or not.

        Options are those of :meth:`send_many` but ``countdown_s``, ``when_down`` and ``track``.

        Raises:
            BroadcastRefused: the strategy forbids to send it; nothing was sent. Names the recipients and why.
            OrchestratorError: as :meth:`send`; a caller's mistake is found before anything is sent.
        """
        return self.runtime.sender.broadcast(recipients, message, strategy, compensate, options)

    def delivery(self, delivery: str | Delivery) -> Delivery:
        """The delivery with that id, wherever it was sent; or one that was unpickled, with a connection.

        An id is looked up among the recorded outcomes, in every mailbox (about a millisecond per thousand waiting
        messages), and among the newest dead letters. ``wait`` then returns the outcome whatever its ``on_error`` says.

        Raises:
            UnknownDelivery: the id is wrong, its record has expired, or it was not tracked and has ended.
            NotSupervised: the app's broker is not one that this library supervises.
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.interfaces.delivery(delivery)

    # -- looking and acting

    @property
    def eager(self) -> bool:
        """Whether sends run inline (Celery's ``task_always_eager``)."""
        return self.runtime.modes.is_eager

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: those in Redis, or in eager mode those of this process."""
        return self.runtime.mode.dead_letters

    @property
    def workflows(self) -> Workflows:
        """Workflows: starts runs, finds them, lists them."""
        return self.runtime.interfaces.workflows

    @overload
    def workflow(self, function: Callable[Concatenate[WorkflowContext, P], R], /) -> WorkflowFunction[P, R]: ...

    @overload
    def workflow(
        self, **options: Unpack[FunctionOptions]
    ) -> Callable[[Callable[Concatenate[WorkflowContext, P], R]], WorkflowFunction[P, R]]: ...

    def workflow(self, function: Any = None, **options: Any) -> Any:
        """Declare a workflow as a function, ``@orchestrator.workflow``: ``def publish(ctx, book): …``.

        What it calls by its context (:class:`WorkflowContext`) are steps of its run. It is executed again from its
        beginning whenever they have ended, so it has to make the same calls in the same order each time.

        Options:
            name: of the workflow; the function's if it is not given.
            on_failure, max_running: as of :class:`Workflow`.
            retry, on_error, timeout_s, priority, metadata: of the step that executes the function.

        Raises:
            InvalidWorkflow: it cannot be a workflow function; all problems are listed.
        """
        from orchestrator.workflows.functions.function import WorkflowFunction

        known: Any = options
        if function is None:
            return lambda decorated: WorkflowFunction(self.runtime, decorated, known)
        return WorkflowFunction(self.runtime, function, known)

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts of messages, and those that are overridden for a while."""
        return self.runtime.interfaces.timeouts

    @property
    def schedules(self) -> Schedules:
        """Schedules: adds them, finds them, acts on them."""
        return self.runtime.interfaces.schedules

    # -- coordination

    def lease(self, name: str, *, wait_s: float = 0.0, limit_s: float | None = None, reentrant: bool = False) -> Lease:
        """A named lease, to be used in a ``with``: at most one holder at a time is granted it, in order of arrival.

        The owner is the attempt whose handler (or task) runs here, or the session that is open. When it ends, however
        that happens, the lease goes to the next.

        Args:
            name: what is leased.
            wait_s: how long the ``with`` waits, at most.
            limit_s: how long it is held, at most; ``None`` for no limit.
            reentrant: whether the same owner may enter it again while it holds it.

        Raises:
            InvalidPolicy: an argument has a value that is not allowed. The ``with`` raises as :meth:`Held.acquire`.
        """
        return self.runtime.interfaces.coordination.lease(name, wait_s=wait_s, limit_s=limit_s, reentrant=reentrant)

    def election(self, name: str | type[Agent]) -> Election:
        """An election: to campaign in, or to observe who leads. That of a singleton by its class.

        Raises:
            InvalidPolicy: the name is not allowed, or the agent is no singleton.
        """
        return self.runtime.interfaces.coordination.election(name)

    def semaphore(self, name: str, permits: int) -> Semaphore:
        """A semaphore: at most ``permits`` holders at a time are granted a permit.

        Raises:
            InvalidPolicy: an argument has a value that is not allowed.
        """
        return self.runtime.interfaces.coordination.semaphore(name, permits)

    def pool(self, name: str, resources: Iterable[str]) -> Pool:
        """A pool of resources, of which each is held by one owner at a time.

        Raises:
            InvalidPolicy: an argument has a value that is not allowed.
        """
        return self.runtime.interfaces.coordination.pool(name, resources)

    def discover(
        self, capability: str | Collection[str], max_load: float | None = None, host: str | None = None
    ) -> list[FoundAgent]:
        """The living agents that offer a capability, or all of several; those with the least load first.

        Those with equal loads are in random order. The list is empty if nobody offers it now, also if the
        name is misspelt, because an agent may offer it later.

        Args:
            capability: what their classes have in ``capabilities``.
            max_load: only those with at most this many messages waiting and claimed for each of their slots.
            host: only those that a worker on this host serves.

        Raises:
            InvalidPolicy: an argument has a value that is not allowed.
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.interfaces.distributor.discover(capability, max_load, host)

    def distribute(
        self,
        items: Iterable[Message] | Mapping[str, Message],
        to: Needs | Iterable[str | type[Agent]],
        *,
        strategy: DistributionStrategy | str = "round_robin",
        **options: Unpack[DistributeOptions],
    ) -> DistributionReport:
        """Give messages out to agents, each to one of them: all are accepted in one step, or none is.

        No agent sees an item before all are accepted. If the sender dies before that, none is sent; if it dies
        afterwards, all are. An agent that no living worker serves, whose mailbox is full or whose circuit breaker is
        open gets none, and the report names it.

        Args:
            items: at most 100,000 messages; named ones keep their names in the report.
            to: the agents, at most 200; or what they have to offer, :class:`Needs`.
            strategy: ``"round_robin"``, ``"least_loaded"``, ``"balanced"``, ``"greedy"`` or ``"random"``; see
                :class:`DistributionStrategy`. Loads are those at the moment of the call.
            options: those of :meth:`broadcast`, for each item; and ``idempotency_key``: of distributions with the same
                key, the first is accepted. The others send nothing and return the report of the first, for
                ``idempotency_ttl_s`` (a day) after its acceptance; with other items they are an ``InvalidPolicy``.

        Raises:
            NoAgents: no living agent handles all items and offers what is needed.
            DistributionRefused: the agents do not take all items; nothing was sent. Says why, by agent.
            OrchestratorError: as :meth:`send`; a caller's mistake is found before anything is sent.
        """
        return self.runtime.interfaces.distributor.distribute(items, to, strategy, options)

    def hierarchy(self, name: str, structure: HierarchyStructure | None = None) -> Hierarchy:
        """A hierarchy of agents, kept under a name: ``{"chief": {"lead-1": ["w1", "w2"]}}``.

        With a ``structure`` it is declared, in the place of what has that name; without, it is looked up. Agents that
        have others below them are its leads, the others its members.

        Raises:
            InvalidDeclaration: the structure has an agent twice, a cycle, or something that is no agent.
            UnknownAgent: an agent was neither declared here nor announced by any worker.
            UnknownHierarchy: it is looked up, and there is none of that name.
            InvalidPolicy: the name is not allowed.
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.interfaces.hierarchies.hierarchy(name, structure)

    @property
    def hierarchies(self) -> Hierarchies:
        """The hierarchies of agents: lists and deletes them by their names."""
        return self.runtime.interfaces.hierarchies

    def propose(
        self,
        message: Message,
        voters: Iterable[str | type[Agent]],
        rule: Rule,
        *,
        timeout_s: float = 10.0,
        silent: Literal["abstain", "reject"] = "abstain",
        id: str | None = None,
    ) -> Ballot:
        """Have agents vote on a message, by their methods marked with ``@votes``; ``ballot.wait`` has the decision.

        It is decided once, as soon as no further vote can change it, and whether the proposer lives or not. All voters
        that have an ``on_decision`` are sent the same :class:`Decision`.

        Args:
            message: what is proposed.
            voters: the agents, at most 1,000.
            rule: ``Majority()``, ``Unanimous()``, ``Quorum(n)`` or ``Weighted({...}, share)``.
            timeout_s: when who has not voted is silent.
            silent: how a voter without a vote counts: not at all, or as a vote against the proposal.
            id: of the ballot; of two proposals with the same id, the second one finds the first one's ballot.

        Raises:
            NoAgents: there are no voters.
            UnknownMessage: a voter has no method that votes on that message.
            InvalidPolicy, InvalidMessage, UnknownAgent: an argument has a value that is not allowed.
            BallotExists: there is a ballot with that id on something else.
            OutdatedWorker: a living worker of a voter is of a version that does not count votes.
            BrokerUnavailable: Redis is away.
        """
        ballots = self.runtime.interfaces.coordination
        return ballots.propose(message, voters, rule, timeout_s=timeout_s, silent=silent, id=id)

    def barrier(
        self,
        name: str,
        parties: int | Iterable[str],
        *,
        timeout_s: float = 60.0,
        on_death: Literal["break", "shrink"] = "break",
    ) -> Barrier:
        """A barrier: its generation trips when all parties have arrived, and then the next one begins.

        Args:
            name: the barrier's name; everybody who uses it names the same parties and the same ``on_death``.
            parties: how many there are, at most 1,000, or their names.
            timeout_s: a generation breaks if it has not tripped this long after its first arrival; at most a week.
            on_death: whether a generation breaks if a party dies that waits, or does without it.

        Raises:
            InvalidPolicy: an argument has a value that is not allowed.
        """
        return self.runtime.interfaces.coordination.barrier(name, parties, timeout_s=timeout_s, on_death=on_death)

    @property
    def coordination(self) -> Coordination:
        """The leases, elections, semaphores, pools, barriers and ballots that there are."""
        return self.runtime.interfaces.coordination

    @property
    def breakers(self) -> Breakers:
        """The agents' circuit breakers: how they stand; isolates and closes them by hand."""
        return self.runtime.interfaces.breakers

    @property
    def monitors(self) -> Monitors:
        """Monitors: those in Redis, or in eager mode those of this process."""
        return self.runtime.mode.monitors

    @property
    def registry(self) -> Registry:
        """The agents, incarnations and deaths that Redis knows.

        Raises:
            NotSupervised: the app's broker is not one that this library supervises.
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.redis.registry

    def ledger(self) -> list[LedgerRow]:
        """Every mailbox' ledger, at one moment; the monitor manager's is :meth:`housekeeping_ledger`.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.mode.statistics.ledger()

    def housekeeping_ledger(self) -> LedgerRow:
        """The ledger of the messages by which beat starts the monitor manager's work.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.mode.statistics.housekeeping_ledger()

    def dataset(self) -> DatasetRecord | None:
        """Since when Redis counts, and what it is known to have lost; ``None`` in eager mode, or before any worker.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.mode.statistics.dataset()

    def call_counts(self) -> list[CallCounts]:
        """Counts of asks, retries, hedges and durable fallbacks of each mailbox, since its counters began.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.mode.statistics.call_counts()

    def mailboxes(self) -> list[MailboxState]:
        """Every mailbox as it is now: what waits in it, since when, its bound and breaker, and who serves it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.runtime.mode.statistics.mailboxes()

    def reset(self) -> None:
        """Forget all that eager mode has in memory: letters, outcomes, counts, breakers, idempotency keys, monitors.

        For tests that share an app. Objects obtained before, such as a dead-letter log, keep the old state.

        Raises:
            CallerError: this is not eager mode; what is in Redis is not deleted.
        """
        self.runtime.modes.reset_eager()
