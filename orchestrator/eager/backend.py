"""Eager mode's backend: messages run inline to their outcomes, with no Redis and no waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Self

from celery import Celery

from orchestrator.core import ask as ask_rule
from orchestrator.core import call_budget
from orchestrator.core.breaker import BreakerStatus, Phase
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BulkheadFull, CircuitOpen
from orchestrator.core.flow_policy import Flow
from orchestrator.core.outcome import Dead, Handled, Outcome, kind, to_wire
from orchestrator.core.policy import WhenOpen
from orchestrator.core.supervision import Supervision
from orchestrator.deadletters.in_memory_store import InMemoryDeadLetterStore
from orchestrator.eager.bulkheads import EagerBulkheads
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.eager_message import UnreadableMessage, decode_message
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.eager.records import EagerRecords
from orchestrator.sending.backend import SendResult
from orchestrator.sending.broadcast import BroadcastRequest, Refusal, Strategy
from orchestrator.sending.call_counts import CallCounts, counts_of
from orchestrator.sending.celery_sends import TaskSend, as_published, check_arguments, has_own_way, send_by_task
from orchestrator.sending.delivery import CancelResult, Found, Status
from orchestrator.sending.ledger import LedgerRow
from orchestrator.sending.outgoing_message import AskRequest, OutgoingMessage
from orchestrator.sending.stale import InMemoryStaleReplies
from orchestrator.telemetry import emit, events
from orchestrator.transport.admission.ask_record import NotSent
from orchestrator.worker.hosting import supervise_tasks


class EagerBackend:
    """Runs the messages of one app in one process, in place of Redis and the workers."""

    inline = True

    @property
    def tracker(self) -> EagerBackend:
        """The tracker of deliveries, which is this object."""
        return self

    def __init__(self, app: Celery, flow: Callable[[str], Flow]) -> None:
        self._app = app
        self._flow = EagerFlowControl(flow)
        self._records = EagerRecords()
        self.letters = InMemoryDeadLetterStore(self._replay)
        self._inboxes: dict[str, list[tuple[str, Outcome | None]]] = {}
        self._calls: dict[str, Counter[str]] = {}
        self._bulkheads = EagerBulkheads()
        self.stale = InMemoryStaleReplies()
        #: By agent: the messages that wait behind its open breaker, oldest first.
        self._deferred: dict[str, list[OutgoingMessage]] = {}
        self._replay_checks: list[Callable[[str, Supervision], None]] = []
        self._runner = DeliveryRunner(app, self._flow, self._records, self.letters)
        #: By the id of a broadcast's copy that died: its compensation, should it be replayed, and the broadcast.
        self._compensations: dict[str, tuple[OutgoingMessage, str]] = {}

    def on_outcome(self, callback: Callable[[Supervision, Outcome], None]) -> None:
        """Have a function called with the supervision and the outcome of each delivery that has ended."""
        self._runner.on_outcome.append(callback)

    def on_start(self, callback: Callable[[str], None]) -> None:
        """Have a function called with the agent of each delivery, before it is attempted."""
        self._runner.on_start = callback

    # -- the tracker

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """The outcome of a delivery, without waiting: no delivery is ever pending here."""
        return self._records.outcome(delivery_id)

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The outcome with its history, as JSON data."""
        return self._records.record(delivery_id)

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """Where a message waits that a breaker has deferred; ``None`` for others, which never wait here."""
        located = self.locate(delivery_id)
        return None if located is None else located[1]

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """The same, with its mailbox."""
        for messages in self._deferred.values():
            for message in messages:
                if message.id == delivery_id:
                    queue = getattr(message.queue, "name", message.queue) or self._app.conf.task_default_queue
                    return str(queue), Found(Status.PENDING, message.supervision)
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """Too late, as a rule: a delivery has its outcome before it can be cancelled, unless a breaker defers it."""
        for messages in self._deferred.values():
            for message in messages:
                if message.id == delivery_id:
                    messages.remove(message)
                    self._runner.cancel(message, "sender")
                    return CancelResult.CANCELLED
        known = self._records.outcome(delivery_id) is not None
        return CancelResult.TOO_LATE if known else CancelResult.UNKNOWN

    # -- the backend

    def hosted(self, message: OutgoingMessage) -> bool:
        """True: every agent is hosted in this process."""
        return True

    def close_breaker(self, agent: str) -> bool | None:
        """Close an agent's breaker by hand. Returns whether it was not closed; ``None`` if the agent has none."""
        was_open = self._flow.close(agent)
        self._let_go(agent)
        return was_open

    def isolate_breaker(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker. Returns whether it was not isolated; ``None`` if the agent has none."""
        return self._flow.isolate(agent, why)

    def breaker_status(self, agent: str) -> BreakerStatus | None:
        """How an agent's breaker stands; ``None`` if it has none."""
        return self._flow.status(agent)

    def ledger(self) -> list[LedgerRow]:
        """The ledger of the messages sent in eager mode."""
        return self._records.ledger()

    def deliver(self, message: OutgoingMessage) -> None:
        """Run a message that flow control does not refuse, as if a script of Redis had sent it."""
        self._runner.run(message)

    def prepare(self, message: OutgoingMessage) -> None:
        """Does nothing: no mailbox has to be declared here."""

    def send(self, message: OutgoingMessage) -> SendResult:
        """Run a message to its outcome, retries included; or find the delivery that its idempotency key stands for.

        Raises:
            InvalidMessage: its arguments are not JSON data, which a broker would have refused too.
            CircuitOpen: its recipient's breaker is open.
            Exception: what its last attempt has raised, with Celery's setting ``task_eager_propagates``.
        """
        raised: list[BaseException] = []
        sent = self._send(message, raised)
        if raised and self._app.conf.task_eager_propagates:
            raise raised[-1]
        return sent

    def send_many(self, messages: Sequence[OutgoingMessage]) -> None:
        """Run messages one after the other. Errors of handlers are not raised, so that all of them run."""
        for accepted, message in enumerate(messages):
            try:
                self._send(message)
            except (CircuitOpen, BulkheadFull) as error:
                error.accepted, error.requested = accepted, len(messages)
                raise

    def ask_many(self, requests: Sequence[OutgoingMessage]) -> None:
        """Run requests one after the other, and their replies with each."""
        self.send_many(requests)

    def run_accepted(self, messages: Sequence[OutgoingMessage]) -> None:
        """Run messages that were accepted together, one after the other: their breakers are not asked any more."""
        for message in messages:
            self._run(message)
        for agent in dict.fromkeys(message.supervision.agent for message in messages):
            self._let_go(agent)

    def room_behind_breaker(self, agent: str) -> int | None:
        """How many messages an agent's breaker admits now; ``None`` for any number."""
        policy = self._flow.policy(agent)
        if policy is None:
            return None
        try:
            self._flow.admit(agent, peek=True)
        except CircuitOpen:
            return 0
        status = self._flow.status(agent)
        return None if status is None or status.phase is Phase.CLOSED else policy.probes

    def broadcast(self, request: BroadcastRequest) -> Mapping[int, Refusal]:
        """Run the copies of a broadcast one after the other, and then the compensations that are due.

        Only an open breaker refuses a copy: no agent is down here, and no mailbox is full.
        """
        refused: dict[int, Refusal] = {}
        if request.strategy is Strategy.ALL_OR_NOTHING:
            for place, message in enumerate(request.copies):
                with _refusing(refused, place):
                    self._flow.admit(message.supervision.agent, peek=True)
            if refused:
                return refused
        for place, message in enumerate(request.copies):
            with _refusing(refused, place):
                self._send(message, may_wait=False)
        outcomes = [self._records.outcome(message.id) for message in request.copies]
        if any(outcome is not None and not isinstance(outcome, Handled) for outcome in outcomes):
            for place, compensation in enumerate(request.compensations):
                if isinstance(outcomes[place], Handled):
                    self._compensate(compensation, request.id)
                elif isinstance(outcomes[place], Dead):
                    self._compensations[request.copies[place].id] = compensation, request.id
        return refused

    def _compensate(self, compensation: OutgoingMessage, broadcast: str) -> None:
        self._runner.run(compensation)
        emit(events.COMPENSATED, agent=compensation.supervision.agent, id=compensation.id, broadcast=broadcast)

    def _send(
        self, message: OutgoingMessage, raised: list[BaseException] | None = None, *, may_wait: bool = True
    ) -> SendResult:
        """As :meth:`send`, but what the last attempt raises is appended to ``raised``.

        Without ``may_wait``, an open breaker refuses the message though it asks to wait.
        """
        task = None if message.supervision.agent else self._app.tasks.get(message.task)
        place: Mapping[str, Any] | None = None
        if task is not None and has_own_way(task):
            supervise_tasks(self._app)
            send = TaskSend(message, {}, inline=True)
            send_by_task(task, send)
            if not send.published:
                return SendResult(message.id, published=False)
            message, place = as_published(message, send), send.place()
        elif task is not None:
            check_arguments(task, message.args, message.kwargs)
        if message.ask is not None and message.bulkhead is not None:
            with self._bulkheads.request(message.supervision.agent, message.bulkhead, message.ask):
                return self._send_counted(message, raised, place, may_wait=may_wait)
        return self._send_counted(message, raised, place, may_wait=may_wait)

    def _send_counted(
        self,
        message: OutgoingMessage,
        raised: list[BaseException] | None,
        place: Mapping[str, Any] | None,
        *,
        may_wait: bool,
    ) -> SendResult:
        if message.ask is not None:
            self._count_ask(message.ask, message.supervision.agent)
        duplicate = self._flow.duplicate_of(message)
        if duplicate is not None:
            return SendResult(duplicate)
        try:
            if message.supervision.run is None and self._defers(message, may_wait=may_wait):
                self._let_go(message.supervision.agent)
                return SendResult(message.id)
            self._run(message, raised)
        except BaseException:
            self._flow.forget(message)
            raise
        self._let_go(message.supervision.agent)
        return SendResult(message.id, place=place)

    def _defers(self, message: OutgoingMessage, *, may_wait: bool) -> bool:
        """Whether a message waits behind its agent's open breaker, with others before it or not.

        Raises:
            CircuitOpen: it is open, and the message does not ask to wait.
        """
        agent = message.supervision.agent
        may_wait = may_wait and message.ask is None and message.supervision.when_open == WhenOpen.QUEUE
        if not (may_wait and self._deferred.get(agent)):
            try:
                self._flow.admit(agent)
            except CircuitOpen:
                if not may_wait:
                    raise
            else:
                return False
        self._deferred.setdefault(agent, []).append(message)
        return True

    def _let_go(self, agent: str) -> None:
        """Run the messages that wait behind an agent's breaker, as many as it admits."""
        while waiting := self._deferred.get(agent):
            try:
                self._flow.admit(agent)
            except CircuitOpen:
                return
            self._run(waiting.pop(0))

    def _run(self, message: OutgoingMessage, raised: list[BaseException] | None = None) -> None:
        outcome = self._runner.run(message, raised)
        self._flow.ended(message)
        if message.ask is not None:
            self._end_ask(message.ask, message.supervision.agent, message.id, outcome)

    def _end_ask(self, ask: AskRequest, agent: str, delivery_id: str, outcome: Outcome) -> None:
        """Put the reply where it is wanted: nothing is refused it, and what its handler raises is the handler's."""
        state = ask_rule.accepted(ask_rule.AskState(to_ms(ask.timeout_s)), delivery_id)
        _, ending = ask_rule.outcome_recorded(state, delivery_id, kind(outcome))
        if ending is None or not ending.is_replied:
            return
        counts = self._calls[agent]
        counts[ending.ended] += 1
        if ask.reply is not None:
            fields = {**ask.reply.args[0], "outcome": self._records.record(delivery_id) or to_wire(outcome)}
            emit(events.REPLIED, agent=ask.reply.supervision.agent, id=ask.id, ended=ending.ended)
            self._runner.run(replace(ask.reply, args=[fields]))
        if ask.inbox is not None:
            inbox_id, label = ask.inbox
            self._inboxes.setdefault(inbox_id, []).append((label, outcome))
        if ask.fallback is not None and ending.ended != "handled":
            counts["fell_back"] += 1
            self._runner.run(ask.fallback)

    # -- calls

    def inbox(self, inbox_id: str) -> EagerInbox:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return EagerInbox(self._inboxes, inbox_id)

    def end_ask(self, ask_id: str, why: str) -> bool:
        """False: an ask has ended as soon as it is accepted."""
        return False

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        """See :class:`orchestrator.sending.backend.Backend`; nothing waits here."""
        return nullcontext()

    def call_counts(self) -> list[CallCounts]:
        """What became of the asks of each agent, by name."""
        return [counts_of(agent, counts) for agent, counts in sorted(self._calls.items())]

    def _count_ask(self, ask: AskRequest, agent: str) -> None:
        """Count an ask, and add to the budget of retries and hedges, or take from it."""
        counts = self._calls.setdefault(agent, Counter(budget=call_budget.START))
        budget: int | None = counts["budget"]
        if ask.kind == "call":
            budget = call_budget.deposited(counts["budget"])
        elif ask.kind != "ask":
            budget = call_budget.spent(counts["budget"])
        if budget is None:
            counts["over_budget"] += 1
            raise NotSent("budget")
        counts["budget"] = budget
        counts["asked"] += 1
        counts["retried"] += ask.kind == "retry"

    def before_replay(self, check: Callable[[str, Supervision], None]) -> None:
        """Have ``check`` called with the mailbox and the supervision of what is replayed; it raises to refuse that."""
        self._replay_checks.append(check)

    def _replay(self, queue: str, raw: bytes) -> bool:
        """Replay a dead letter's message. Returns whether it is dead without a letter (``on_error``)."""
        try:
            message = decode_message(self._app, queue, raw)
        except UnreadableMessage as unreadable:
            self._runner.dead_letter_unreadable(queue, raw, unreadable)
            return False
        outgoing = message.outgoing
        for check in self._replay_checks:
            check(message.queue, outgoing.supervision)
        self._flow.admit(outgoing.supervision.agent)
        outcome = self._runner.deliver(message)
        self._let_go(outgoing.supervision.agent)
        if isinstance(outcome, Handled) and (due := self._compensations.pop(outgoing.id, None)) is not None:
            self._compensate(*due)
        return isinstance(outcome, Dead) and outcome.letter_id is None


class EagerInbox:
    """Outcomes that are there as soon as their requests are accepted."""

    def __init__(self, inboxes: dict[str, list[tuple[str, Outcome | None]]], id: str) -> None:
        self._inboxes = inboxes
        self._id = id

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """See :class:`orchestrator.sending.inbox.Inbox`; there is nothing to wait for."""
        return self._inboxes.pop(self._id, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def _refusing(refused: dict[int, Refusal], place: int) -> Iterator[None]:
    try:
        yield
    except CircuitOpen:
        refused[place] = Refusal.OPEN
