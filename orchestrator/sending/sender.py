"""The sender: every way of sending ends in its one door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic
from typing import Any, Protocol

from celery import Celery, Task
from celery.canvas import Signature

from orchestrator.core.errors import AgentDown, BroadcastRefused, InvalidPolicy, NotSupervised
from orchestrator.core.flow_policy import Flow
from orchestrator.core.message import Message
from orchestrator.core.outcome import Outcome
from orchestrator.core.policy import OnError, WhenDown
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.registry.registry import Registry
from orchestrator.sending.address import (
    Address,
    Directory,
    build_agent_message,
    build_agent_messages,
    build_task_message,
    by_celery_to,
    said_countdown,
)
from orchestrator.sending.broadcast import (
    BroadcastRequest,
    Refusal,
    Strategy,
    at_any_time,
    each_once,
    named,
    new_broadcast_request,
    publish_broadcast,
    recipients_of,
    strategy_of,
)
from orchestrator.sending.bulk import publish_many
from orchestrator.sending.call import call, check_fallback, check_timeout, request_options
from orchestrator.sending.celery_sends import publish_task
from orchestrator.sending.deliveries import Deliveries
from orchestrator.sending.delivery import Awaiter, Delivery, Tracker, await_in
from orchestrator.sending.fast_publisher import FastPublisher
from orchestrator.sending.mailbox import why_temporary
from orchestrator.sending.publish import OutgoingMessage, publish, queue_name
from orchestrator.sending.report import Receipt, Report
from orchestrator.sending.send_options import (
    BROADCAST_OPTIONS,
    SEND_MANY_OPTIONS,
    BroadcastOptions,
    CheckedOptions,
    SendManyOptions,
    SendOptions,
    check_options,
)
from orchestrator.sending.tracker import RedisTracker
from orchestrator.telemetry import emit, events, tracing
from orchestrator.transport.admission.flow_control import DuplicateSend, declare_flow
from orchestrator.transport.store import Store
from orchestrator.transport.transport import why_not_supervised

#: What still works on another broker.
_WITHOUT_SUPERVISION = (
    "without supervision, Celery's own sends reach the same agents and tasks there: "
    "app.send_task('AGENT.MESSAGE', [FIELDS]), a beat entry, task.delay(...)"
)


@dataclass(frozen=True, slots=True)
class SendResult:
    """What a parcel became."""

    #: Its delivery's id: another's, where that came before under its idempotency key.
    id: str
    #: Whether its message was published; a task's own ``apply_async`` may put that off.
    published: bool = True
    #: Where it was published to, if its task's class has a say in that: queue, exchange, routing_key.
    place: Mapping[str, Any] | None = None


class Backend(Protocol):
    """Takes parcels, and knows their outcomes."""

    #: Whether a parcel has its outcome as soon as it is taken.
    inline: bool

    @property
    def tracker(self) -> Tracker:
        """Knows where what was sent is."""

    def send(self, parcel: OutgoingMessage) -> SendResult:
        """Take a parcel, and say what it became.

        Raises:
            InvalidMessage: its arguments are not JSON data.
            BrokerUnavailable: Redis did not take it.
            NotSupervised: the app's broker is not one that this library supervises.
        """

    def prepare(self, parcel: OutgoingMessage) -> None:
        """Do what comes before an agent's first message that Celery itself sends. Raises as :meth:`send`."""

    def hosted(self, parcel: OutgoingMessage) -> bool:
        """Whether a living worker takes what is sent to where the parcel goes.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    def send_many(self, parcels: Sequence[OutgoingMessage]) -> None:
        """Take parcels for one agent, in their order. Raises as :meth:`send`; flow control says after how many."""

    def broadcast(self, cast: BroadcastRequest) -> Mapping[int, Refusal]:
        """Take the copies of a broadcast; returns who was refused (see :func:`publish_broadcast`)."""

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """Wait up to so many seconds for a recorded outcome; ``None`` if there is none by then."""


class RedisBackend:
    """The app's broker."""

    inline = False

    def __init__(
        self,
        app: Celery,
        store: Callable[[], Store],
        registry: Callable[[], Registry],
        hidden: tuple[str, ...],
        flow: Callable[[str], Flow],
    ) -> None:
        self._app = app
        self._registry = registry
        self._flow = flow
        self._declared: set[str] = set()
        self._store = store
        self._hidden = hidden

    def send(self, parcel: OutgoingMessage) -> SendResult:
        """See :class:`Backend`."""
        self._must_supervise()
        self._declare(parcel)
        task = None if parcel.supervision.agent else self._app.tasks.get(parcel.task)
        try:
            if task is None:
                publish(self._app, parcel, self._hidden, quick=self._quick.publish)
                return SendResult(parcel.id)
            send = publish_task(self._app, task, parcel, self._hidden, self._quick.publish)
        except DuplicateSend as duplicate:
            return SendResult(duplicate.first_id)
        return SendResult(parcel.id) if send is None else SendResult(send.id or parcel.id, send.published, send.place())

    def send_many(self, parcels: Sequence[OutgoingMessage]) -> None:
        """See :class:`Backend`."""
        self._must_supervise()
        self._declare(parcels[0])
        publish_many(self._app, parcels, self._hidden)

    def broadcast(self, cast: BroadcastRequest) -> Mapping[int, Refusal]:
        """See :class:`Backend`."""
        self._must_supervise()
        for parcel in cast.parcels:
            self._declare(parcel)
        return publish_broadcast(self._app, self._store(), cast, self._hidden)

    def prepare(self, parcel: OutgoingMessage) -> None:
        """See :class:`Backend`."""
        self._must_supervise()
        self._declare(parcel)

    def _declare(self, parcel: OutgoingMessage) -> None:
        """Have Redis know the recipient's flow control before its first message, in case no worker has told it yet."""
        agent = parcel.supervision.agent
        if agent and agent not in self._declared:
            flow = self._flow(agent)
            if flow.declared:
                declare_flow(self._store(), queue_name(parcel), flow, serves=False)
            self._declared.add(agent)

    def _must_supervise(self) -> None:
        if self._app.conf.task_protocol != 2:
            raise NotSupervised(f"task_protocol={self._app.conf.task_protocol!r}; allowed: 2")
        if why := why_not_supervised(self._app.conf):
            raise NotSupervised(f"{why}; {_WITHOUT_SUPERVISION}")

    def hosted(self, parcel: OutgoingMessage) -> bool:
        """See :class:`Backend`."""
        return self._registry().hosted(parcel.supervision.agent, queue_of(self._app, parcel))

    @cached_property
    def tracker(self) -> Tracker:
        """See :class:`Backend`."""
        self._must_supervise()
        return RedisTracker(self._app, self._store, self._registry)

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """See :class:`Backend`."""
        return self._await(delivery_id, timeout_s)

    @cached_property
    def _quick(self) -> FastPublisher:
        return FastPublisher(self._app)

    @cached_property
    def _await(self) -> Awaiter:
        return await_in(self._store)


def queue_of(app: Celery, parcel: OutgoingMessage, place: Mapping[str, Any] | None = None) -> str:
    """The name of the mailbox that a parcel goes to: what Celery makes of its task's own options and the routes.

    ``place`` is where its task's class has published it to.
    """
    return _destination(app, parcel, place)[0]


def one_queue_of(app: Celery, parcel: OutgoingMessage) -> str:
    """The name of a parcel's mailbox.

    Raises:
        InvalidPolicy: it goes to a broadcast queue: each worker reads a copy, so there is no one outcome. Or to a queue
            that expires: its messages would vanish without one.
    """
    name, exchange = _destination(app, parcel)
    if parcel.supervision.agent:
        return name
    queues = app.amqp.queues
    declared = queues.get(name) or queues.aliases.get(name)
    used = [declared.exchange] if declared is not None and not exchange else []
    used += [queue.exchange for queue in queues.values() if exchange and queue.exchange.name == exchange]
    if any(exchange.type == "fanout" for exchange in used):
        raise InvalidPolicy("queue", name, "a queue whose messages are read by one worker each, not a broadcast queue")
    said = parcel.options.get("queue") if parcel.queue is None else parcel.queue
    for queue in (said, declared):
        if why := why_temporary(queue):
            raise InvalidPolicy("queue", name, f"a queue that lasts; this one {why}, and its messages with it")
    return name


def _destination(app: Celery, parcel: OutgoingMessage, place: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The names of the queue and of the exchange; the latter is empty where the queue's own is used."""
    said = {**parcel.options, "queue": parcel.queue} if place is None else place
    if said.get("queue") is not None and not said.get("exchange"):
        return str(getattr(said["queue"], "name", said["queue"])), ""
    task = app.tasks.get(parcel.task)
    own = {} if task is None else {name: value for name, value in task._get_exec_options().items() if value is not None}
    own |= {name: said[name] for name in ("queue", "exchange", "routing_key") if said.get(name) is not None}
    route = app.amqp.router.route(own, parcel.task, parcel.args, parcel.kwargs, task)
    queue, exchange, key = route.get("queue"), route.get("exchange"), route.get("routing_key")
    name = str(app.conf.task_default_queue if queue is None else queue.name)
    exchange = str(getattr(exchange, "name", exchange) or "")
    if not exchange or not key:
        return name, exchange
    # As a direct exchange delivers, the only kind that kombu knows here without having declared it.
    declared = app.amqp.queues.values()
    bound = {str(other.name) for other in declared if (other.exchange.name, other.routing_key) == (exchange, key)}
    return (name if name in bound or not bound else min(bound)), exchange


class Sender:
    """Sends for one app. ``door`` is asked at each send: eager mode may be switched while the process runs."""

    def __init__(self, app: Celery, directory: Directory, door: Callable[[], Backend]) -> None:
        self._app = app
        self._directory = directory
        self._door = door

    def send(self, recipient: Any, message: Message | None, options: SendOptions) -> Delivery:
        """Send a message to an agent, or a signature to its task; a task is its signature without arguments.

        Raises:
            CallerError: the recipient, the message or an option is not what it must be.
            AgentDown: nobody is there to take it, and it was not to wait.
            BrokerUnavailable: Redis did not take it.
            SendFailed: it has its outcome already, is to raise, and was not handled.
        """
        return self._send(recipient, message, check_options(options))

    def call(
        self, recipient: Any, message: Message | None, timeout_s: float, fallback: bool | Mapping[str, Any] | None
    ) -> Any:
        """Send a request and wait for its reply; see :func:`orchestrator.sending.call.call`.

        Raises:
            AgentDown: no living worker hosts the agent.
            DeliveryTimeout: there was no reply in time.
            SendFailed: the request was not handled.
            CallerError, BrokerUnavailable: as :meth:`send`.
        """
        patience_s = check_timeout(timeout_s) * self._directory.timeouts.factor
        request = request_options(timeout_s)
        later = check_fallback(fallback)
        return call(
            lambda: self._send(recipient, message, request),
            patience_s,
            None if later is None else lambda: self._send(recipient, message, later),
        )

    def _send(self, recipient: Any, message: Message | None, options: CheckedOptions) -> Delivery:
        if isinstance(recipient, Task):
            recipient = recipient.s()
        parcel = (
            build_task_message(self._app, self._directory, recipient, message, options)
            if isinstance(recipient, Signature)
            else build_agent_message(self._directory, recipient, message, options)
        )
        if tracing.is_on():
            parcel = replace(parcel, trace={})
        door = self._door()
        one_queue_of(self._app, parcel)
        taken = _through(door, parcel)
        s = parcel.supervision
        delivery = Delivery(
            taken.id,
            s.agent,
            s.message,
            s.on_error,
            door.outcome,
            door.tracker,
            queue_of(self._app, parcel, taken.place),
            parcel.trace,
            s.track,
            taken.published,
        )
        if door.inline and taken.published and s.on_error is OnError.RAISE:
            delivery.wait(timeout_s=1)
        return delivery

    def default_supervision(self, address: Address) -> Supervision:
        """How a message is supervised that was sent without saying so."""
        hide = self._directory.hidden_in(address)
        return by_celery_to(address, self._directory.timeouts, None, hide).supervision

    def by_celery(self, task: str, said: Mapping[str, Any]) -> dict[str, Any] | None:
        """The options with which Celery is to send an agent's message; ``None`` if the task is no agent's.

        It goes to the agent's mailbox unless it is ``said`` of this one send where it goes, and is supervised by the
        agent's policy wherever that is. On a broker that is not Redis it is not supervised, but gets there.

        Raises:
            InvalidPolicy: its deadline passes before it is due.
            AgentDown: nobody is there to take it, and the agent's messages do not wait.
            BrokerUnavailable: Redis is away.
        """
        address = self._directory.by_task(task)
        if address is None:
            return None
        countdown_s = said_countdown(self._app, said)
        parcel = by_celery_to(address, self._directory.timeouts, countdown_s, self._directory.hidden_in(address))
        door = self._door()
        options = dict(said)
        supervised = door.inline or not why_not_supervised(self._app.conf)
        if not any(said.get(place) for place in ("queue", "exchange", "routing_key")) or _is_of(said, address):
            options["queue"] = parcel.queue
            if supervised and not door.inline:
                _must_be_up(door, parcel)
                door.prepare(parcel)
        for name, value in (("expires", parcel.expires_s), ("priority", parcel.priority)):
            if value is not None and options.get(name) is None:
                options[name] = value
        if not supervised:
            return options
        options["headers"] = {**(said.get("headers") or {}), HEADER: parcel.supervision.to_wire()}
        options["ignore_result"] = True
        return options

    def send_many(self, recipient: Any, messages: Iterable[Message], options: SendManyOptions) -> Deliveries:
        """Send messages to one agent, in their order and in few round trips.

        Raises:
            CallerError: the recipient, a message or an option is not what it must be; nothing was sent.
            AgentDown: nobody is there, and one of them was not to wait; nothing was sent.
            MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many.
            BrokerUnavailable: Redis did not take it.
        """
        checked = check_options(options, SEND_MANY_OPTIONS, "send_many")
        parcels = build_agent_messages(self._directory, recipient, messages, checked)
        door = self._door()
        if not parcels:
            return Deliveries("", (), (), (), door.outcome, door.tracker, "")
        s = parcels[0].supervision
        trace: dict[str, Any] = {}
        with _telling(parcels), tracing.span(f"send_many {s.agent}", "PRODUCER"):
            tracing.carry(trace)
            _must_be_up(door, next((p for p in parcels if p.when_down is WhenDown.ERROR), parcels[0]))
            door.send_many(parcels)
        names = tuple(parcel.supervision.message for parcel in parcels)
        on_errors = tuple(parcel.supervision.on_error for parcel in parcels)
        return Deliveries(
            s.agent,
            tuple(parcel.id for parcel in parcels),
            names[:1] if len(set(names)) == 1 else names,
            on_errors[:1] if len(set(on_errors)) == 1 else on_errors,
            door.outcome,
            door.tracker,
            queue_name(parcels[0]),
            trace,
            checked.track,
        )

    def broadcast(
        self,
        recipients: Iterable[Any],
        message: Message,
        strategy: Strategy | str,
        compensate: Message | None,
        options: BroadcastOptions,
    ) -> Report:
        """Send a copy to each of many agents.

        Raises:
            CallerError: a recipient, a message or an option is not what it must be; nothing was sent.
            BroadcastRefused: the strategy forbids to send it; nothing was sent.
            BrokerUnavailable: Redis did not take it.
        """
        checked = check_options(options, BROADCAST_OPTIONS, "broadcast")
        strategy = strategy_of(strategy)
        listed = recipients_of(recipients)
        parcels = [build_agent_message(self._directory, recipient, message, checked) for recipient in listed]
        each_once(parcels)
        undo = (
            []
            if compensate is None
            else [
                at_any_time(build_agent_message(self._directory, recipient, compensate, CheckedOptions()))
                for recipient in listed
            ]
        )
        cast = new_broadcast_request(strategy, parcels, undo)
        door = self._door()
        began = monotonic()
        trace: dict[str, Any] = {}
        with tracing.span(f"broadcast {parcels[0].supervision.message}", "PRODUCER", id=cast.id):
            tracing.carry(trace)
            refused = door.broadcast(cast)
        if refused and (
            strategy is Strategy.ALL_OR_NOTHING or (strategy is Strategy.AT_LEAST_ONE and len(refused) == len(parcels))
        ):
            emit(
                events.BROADCAST_REFUSED,
                {"refused": len(refused), "duration_s": monotonic() - began},
                id=cast.id,
                message=parcels[0].supervision.message,
                strategy=strategy.value,
            )
            raise BroadcastRefused(strategy, named(cast, refused))
        emit(
            events.BROADCAST,
            {"accepted": len(parcels) - len(refused), "refused": len(refused), "duration_s": monotonic() - began},
            id=cast.id,
            message=parcels[0].supervision.message,
            strategy=strategy.value,
        )
        return Report(cast.id, strategy, tuple(_receipts(cast, refused, door, trace)), door.outcome)


def _is_of(said: Mapping[str, Any], address: Address) -> bool:
    """Whether what is said is the agent's own mailbox."""
    return getattr(said.get("queue"), "name", said.get("queue")) == getattr(address.queue, "name", address.queue)


def _receipts(
    cast: BroadcastRequest, refused: Mapping[int, Refusal], door: Backend, trace: Mapping[str, Any]
) -> Iterator[Receipt]:
    tracker = door.tracker
    for place, parcel in enumerate(cast.parcels):
        s = parcel.supervision
        if place in refused:
            yield Receipt(s.agent, refusal=refused[place])
        else:
            delivery = Delivery(
                parcel.id, s.agent, s.message, s.on_error, door.outcome, tracker, queue_name(parcel), trace
            )
            yield Receipt(s.agent, delivery)


def _through(door: Backend, parcel: OutgoingMessage) -> SendResult:
    s = parcel.supervision
    emit(events.SEND_STARTED, agent=s.agent, message=s.message, id=parcel.id)
    began = monotonic()
    try:
        _must_be_up(door, parcel)
        taken = door.send(parcel)
    except Exception as error:
        _tell_failed(parcel, error, monotonic() - began)
        raise
    if taken.published:
        emit(
            # Its task's class may have given it another id; then it is no repetition.
            events.SENT if taken.id == parcel.id or taken.place is not None else events.REPEATED,
            {"duration_s": monotonic() - began},
            agent=s.agent,
            message=s.message,
            id=taken.id,
        )
    return taken


def _must_be_up(door: Backend, parcel: OutgoingMessage) -> None:
    if parcel.when_down is WhenDown.ERROR and not door.hosted(parcel):
        raise AgentDown(parcel.supervision.agent or parcel.task)


def _tell_failed(parcel: OutgoingMessage, error: Exception, took_s: float) -> None:
    s, name = parcel.supervision, type(error).__name__
    emit(events.SEND_FAILED, {"duration_s": took_s}, agent=s.agent, message=s.message, id=parcel.id, error=name)


@contextmanager
def _telling(parcels: Sequence[OutgoingMessage]) -> Iterator[None]:
    """The events of many sends at once. Each has taken as long as all together."""
    for parcel in parcels:
        s = parcel.supervision
        emit(events.SEND_STARTED, agent=s.agent, message=s.message, id=parcel.id)
    began = monotonic()
    accepted = 0
    try:
        yield
        accepted = len(parcels)
    except Exception as error:
        accepted = getattr(error, "accepted", 0)
        for parcel in parcels[accepted:]:
            _tell_failed(parcel, error, monotonic() - began)
        raise
    finally:
        took_s = monotonic() - began
        for parcel in parcels[:accepted]:
            s = parcel.supervision
            emit(events.SENT, {"duration_s": took_s}, agent=s.agent, message=s.message, id=parcel.id)
