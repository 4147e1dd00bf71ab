"""The sender: every public way of sending ends here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from celery import Celery, Task
from celery.canvas import Signature

from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.core.errors import BroadcastRefused
from orchestrator.core.message import Message
from orchestrator.core.policies.policy import OnError, WhenDown
from orchestrator.sending.address import Address, Directory
from orchestrator.sending.backend import Backend, SendResult
from orchestrator.sending.broadcast import (
    BroadcastRequest,
    Refusal,
    Strategy,
    new_broadcast_request,
    recipients_of,
    refuse_duplicates,
    refused_by_name,
    strategy_of,
    without_time_limits,
)
from orchestrator.sending.celery_sends import refuse_outside_of_runs
from orchestrator.sending.deliveries import Deliveries
from orchestrator.sending.delivery import Delivery
from orchestrator.sending.destination import checked_queue_of, queue_of
from orchestrator.sending.dispatch import refuse_if_down, send_with_events
from orchestrator.sending.messages.agent_messages import build_agent_message, build_agent_messages, build_celery_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.messages.task_messages import build_task_message, countdown_of
from orchestrator.sending.report import Receipt, Report
from orchestrator.sending.send_events import events_of_many
from orchestrator.sending.send_options import (
    BROADCAST_OPTIONS,
    SEND_MANY_OPTIONS,
    BroadcastOptions,
    CheckedOptions,
    SendManyOptions,
    SendOptions,
    check_options,
)
from orchestrator.telemetry import emit, events, tracing
from orchestrator.transport.transport import why_not_supervised

#: The parameters of a broadcast that are no options.
_BROADCAST_ARGUMENTS = frozenset({"recipients", "message", "strategy", "compensate"})

#: Options of Celery that say where a message goes.
_PLACES = ("queue", "exchange", "routing_key")


class Sender:
    """Sends for one app. ``backend`` is asked at each send: eager mode may be switched while the process runs."""

    def __init__(self, app: Celery, directory: Directory, backend: Callable[[], Backend]) -> None:
        self._app = app
        self._directory = directory
        self._backend = backend

    def send(self, recipient: Any, message: Message | None, options: SendOptions) -> Delivery:
        """Send a message to an agent, or a signature to its task; a task is its signature without arguments.

        Raises:
            CallerError: the recipient, the message or an option is not valid.
            AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
            BrokerUnavailable: Redis did not accept it.
            SendFailed: it has its outcome already, has ``on_error="raise"``, and was not handled.
        """
        return self._send(recipient, message, check_options(options, arguments=frozenset({"recipient", "message"})))

    def _send(self, recipient: Any, message: Message | None, options: CheckedOptions) -> Delivery:
        # First: what the process loads for its first send is not in the time until the deadline.
        backend = self._backend()
        return self.deliver(self.build(recipient, message, options), backend)

    def build(self, recipient: Any, message: Message | None, options: CheckedOptions) -> OutgoingMessage:
        """The outgoing message of a send.

        Raises:
            CallerError: the recipient or the message is not valid.
        """
        if isinstance(recipient, str):
            # An agent's name: its messages go to its mailbox, whatever the routes say.
            return build_agent_message(self._directory, recipient, message, options)
        if isinstance(recipient, Task):
            recipient = recipient.s()
        is_signature = isinstance(recipient, Signature)
        refuse_outside_of_runs(self._app.tasks.get(recipient.task) if is_signature else recipient, recipient)
        outgoing = (
            build_task_message(self._app, self._directory, recipient, message, options)
            if is_signature
            else build_agent_message(self._directory, recipient, message, options)
        )
        checked_queue_of(self._app, outgoing)
        return outgoing

    def deliver(self, outgoing: OutgoingMessage, backend: Backend | None = None) -> Delivery:
        """Send an outgoing message; by this backend, if the sender has looked it up already.

        Raises:
            AgentDown, BrokerUnavailable, SendFailed: as :meth:`send`.
        """
        if tracing.is_on():
            outgoing = replace(outgoing, trace={})
        backend = backend or self._backend()
        sent = send_with_events(backend, outgoing)
        delivery = self.delivery_of(outgoing, sent, backend)
        if backend.inline and sent.published and outgoing.supervision.on_error is OnError.RAISE:
            delivery.wait(timeout_s=1)
        return delivery

    def delivery_of(
        self, outgoing: OutgoingMessage, sent: SendResult | None = None, backend: Backend | None = None
    ) -> Delivery:
        """The delivery of an outgoing message that was sent, here or by Redis."""
        backend, s = backend or self._backend(), outgoing.supervision
        return Delivery(
            outgoing.id if sent is None else sent.id,
            s.agent,
            s.message,
            s.on_error,
            backend.outcome,
            backend.tracker,
            queue_of(self._app, outgoing, None if sent is None else sent.place),
            outgoing.trace,
            s.track,
            True if sent is None else sent.published,
        )

    def default_supervision(self, address: Address) -> Supervision:
        """The supervision of a message whose send sets no options."""
        hide = self._directory.hidden_in(address)
        return build_celery_message(address, self._directory.timeouts, None, hide).supervision

    def by_celery(self, task: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The options with which Celery is to send an agent's message; ``None`` if the task is not an agent's.

        The message goes to the agent's mailbox unless the ``given`` options of this send name a place, and is
        supervised by the agent's policy in either case. On a broker other than Redis it arrives unsupervised.

        Raises:
            InvalidPolicy: its deadline passes before it is due.
            AgentDown: no living worker hosts the agent, whose ``when_down`` is ``"error"``.
            BrokerUnavailable: Redis is away.
        """
        address = self._directory.by_task(task)
        if address is None:
            return None
        countdown_s = countdown_of(self._app, given)
        outgoing = build_celery_message(
            address, self._directory.timeouts, countdown_s, self._directory.hidden_in(address)
        )
        backend = self._backend()
        options = dict(given)
        supervised = backend.inline or not why_not_supervised(self._app.conf)
        if not any(given.get(place) for place in _PLACES) or _names_own_mailbox(given, address):
            options["queue"] = outgoing.queue
            if supervised and not backend.inline:
                refuse_if_down(backend, outgoing)
                backend.prepare(outgoing)
        for name, value in (("expires", outgoing.expires_s), ("priority", outgoing.priority)):
            if value is not None and options.get(name) is None:
                options[name] = value
        if not supervised:
            return options
        options["headers"] = {**(given.get("headers") or {}), HEADER: outgoing.supervision.to_wire()}
        options["ignore_result"] = True
        return options

    def send_many(self, recipient: Any, messages: Iterable[Message], options: SendManyOptions) -> Deliveries:
        """Send messages to one agent, in their order and in few round trips.

        Raises:
            CallerError: the recipient, a message or an option is not valid; nothing was sent.
            AgentDown: no living worker hosts the agent, and ``when_down`` of one is ``"error"``; nothing was sent.
            MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many.
            BrokerUnavailable: Redis did not accept it.
        """
        checked = check_options(options, SEND_MANY_OPTIONS, "send_many", frozenset({"recipient", "messages"}))
        backend = self._backend()
        outgoing = build_agent_messages(self._directory, recipient, messages, checked)
        if not outgoing:
            return Deliveries("", (), (), (), backend.outcome, backend.tracker, "")
        s = outgoing[0].supervision
        trace: dict[str, Any] = {}
        with events_of_many(outgoing), tracing.span(f"send_many {s.agent}", "PRODUCER"):
            tracing.carry(trace)
            refuse_if_down(backend, next((one for one in outgoing if one.when_down is WhenDown.ERROR), outgoing[0]))
            backend.send_many(outgoing)
        names = tuple(one.supervision.message for one in outgoing)
        on_errors = tuple(one.supervision.on_error for one in outgoing)
        return Deliveries(
            s.agent,
            tuple(one.id for one in outgoing),
            names[:1] if len(set(names)) == 1 else names,
            on_errors[:1] if len(set(on_errors)) == 1 else on_errors,
            backend.outcome,
            backend.tracker,
            queue_name(outgoing[0]),
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
            CallerError: a recipient, a message or an option is not valid; nothing was sent.
            BroadcastRefused: the strategy forbids to send it; nothing was sent.
            BrokerUnavailable: Redis did not accept it.
        """
        checked = check_options(options, BROADCAST_OPTIONS, "broadcast", _BROADCAST_ARGUMENTS)
        backend = self._backend()
        request = self._broadcast_request(recipients, message, strategy_of(strategy), compensate, checked)
        began = monotonic()
        trace: dict[str, Any] = {}
        name = request.copies[0].supervision.message
        with tracing.span(f"broadcast {name}", "PRODUCER", id=request.id):
            tracing.carry(trace)
            refused = backend.broadcast(request)
        accepted, strategy = len(request.copies) - len(refused), request.strategy
        if refused and (strategy is Strategy.ALL_OR_NOTHING or (strategy is Strategy.AT_LEAST_ONE and not accepted)):
            emit(
                events.BROADCAST_REFUSED,
                {"refused": len(refused), "duration_s": monotonic() - began},
                id=request.id,
                message=name,
                strategy=strategy.value,
            )
            raise BroadcastRefused(strategy, refused_by_name(request, refused))
        emit(
            events.BROADCAST,
            {"accepted": accepted, "refused": len(refused), "duration_s": monotonic() - began},
            id=request.id,
            message=name,
            strategy=strategy.value,
        )
        return Report(request.id, strategy, tuple(_receipts(request, refused, backend, trace)), backend.outcome)

    def _broadcast_request(
        self,
        recipients: Iterable[Any],
        message: Message,
        strategy: Strategy,
        compensate: Message | None,
        options: CheckedOptions,
    ) -> BroadcastRequest:
        listed = recipients_of(recipients)
        copies = [build_agent_message(self._directory, recipient, message, options) for recipient in listed]
        refuse_duplicates(copies)
        if compensate is None:
            return new_broadcast_request(strategy, copies)
        undo = (build_agent_message(self._directory, recipient, compensate, CheckedOptions()) for recipient in listed)
        return new_broadcast_request(strategy, copies, [without_time_limits(one) for one in undo])


def _names_own_mailbox(given: Mapping[str, Any], address: Address) -> bool:
    """Whether the queue that is given is the agent's own mailbox."""
    return getattr(given.get("queue"), "name", given.get("queue")) == getattr(address.queue, "name", address.queue)


def _receipts(
    request: BroadcastRequest, refused: Mapping[int, Refusal], backend: Backend, trace: Mapping[str, Any]
) -> Iterator[Receipt]:
    tracker = backend.tracker
    for place, copy in enumerate(request.copies):
        s = copy.supervision
        if place in refused:
            yield Receipt(s.agent, refusal=refused[place])
        else:
            delivery = Delivery(
                copy.id, s.agent, s.message, s.on_error, backend.outcome, tracker, queue_name(copy), trace
            )
            yield Receipt(s.agent, delivery)
