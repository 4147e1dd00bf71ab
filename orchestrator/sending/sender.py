"""The sender: every way of sending ends in its one door."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from time import monotonic
from typing import Any, Protocol

from celery import Celery
from celery.canvas import Signature
from kombu.utils.imports import symbol_by_name

from orchestrator.core.errors import AgentDown, NotSupervised
from orchestrator.core.message import Message
from orchestrator.core.outcome import Outcome
from orchestrator.core.policy import OnError, WhenDown
from orchestrator.registry.agents import Registry
from orchestrator.sending.address import Directory, to_agent, to_task
from orchestrator.sending.delivery import Awaiter, Delivery, Tracker, await_in
from orchestrator.sending.options import SendOptions
from orchestrator.sending.publish import Parcel, publish
from orchestrator.sending.tracker import RedisTracker
from orchestrator.telemetry import emit, events
from orchestrator.transport.store import Store
from orchestrator.transport.transport import TRANSPORT, Transport


class Door(Protocol):
    """Takes parcels, and knows their outcomes."""

    #: Whether a parcel has its outcome as soon as it is taken.
    inline: bool

    @property
    def tracker(self) -> Tracker:
        """Knows where what was sent is."""

    def send(self, parcel: Parcel) -> Any:
        """Take a parcel.

        Raises:
            InvalidMessage: its arguments are not JSON data.
            BrokerUnavailable: Redis did not take it.
            NotSupervised: the app's broker is not one that this library supervises.
        """

    def hosted(self, parcel: Parcel) -> bool:
        """Whether a living worker takes what is sent to where the parcel goes.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """Wait up to so many seconds for a recorded outcome; ``None`` if there is none by then."""


class BrokerDoor:
    """The app's broker."""

    inline = False

    def __init__(
        self, app: Celery, store: Callable[[], Store], registry: Callable[[], Registry], hidden: tuple[str, ...]
    ) -> None:
        self._app = app
        self._registry = registry
        self._store = store
        self._hidden = hidden

    def send(self, parcel: Parcel) -> None:
        """See :class:`Door`."""
        transport = self._app.conf.broker_transport
        if not (transport and issubclass(symbol_by_name(transport), Transport)):
            raise NotSupervised(
                f"the broker's transport is {transport or 'what its URL says'}; "
                f"allowed: a redis://, rediss:// or sentinel:// URL with broker_transport={TRANSPORT!r}"
            )
        publish(self._app, parcel, self._hidden)

    def hosted(self, parcel: Parcel) -> bool:
        """See :class:`Door`."""
        return self._registry().hosted(parcel.supervision.agent, queue_of(self._app, parcel))

    @cached_property
    def tracker(self) -> Tracker:
        """See :class:`Door`."""
        return RedisTracker(self._app, self._store, self._registry)

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """See :class:`Door`."""
        return self._await(delivery_id, timeout_s)

    @cached_property
    def _await(self) -> Awaiter:
        return await_in(self._store())


def queue_of(app: Celery, parcel: Parcel) -> str:
    """The name of the mailbox that a parcel goes to."""
    queue = getattr(parcel.queue, "name", parcel.queue)
    return str(queue if queue is not None else app.amqp.router.route({}, parcel.task)["queue"].name)


class Sender:
    """Sends for one app. ``door`` is asked at each send: eager mode may be switched while the process runs."""

    def __init__(self, app: Celery, directory: Directory, door: Callable[[], Door]) -> None:
        self._app = app
        self._directory = directory
        self._door = door

    def send(self, recipient: Any, message: Message | None, options: SendOptions) -> Delivery:
        """Send a message to an agent, or a signature to its task.

        Raises:
            CallerError: the recipient, the message or an option is not what it must be.
            AgentDown: nobody is there to take it, and it was not to wait.
            BrokerUnavailable: Redis did not take it.
            SendFailed: it has its outcome already, is to raise, and was not handled.
        """
        parcel = (
            to_task(self._app, self._directory, recipient, message, options)
            if isinstance(recipient, Signature)
            else to_agent(self._directory, recipient, message, options)
        )
        door = self._door()
        _through(door, parcel)
        s = parcel.supervision
        delivery = Delivery(
            parcel.id, s.agent, s.message, s.on_error, door.outcome, door.tracker, queue_of(self._app, parcel)
        )
        if door.inline and s.on_error is OnError.RAISE:
            delivery.wait(timeout_s=1)
        return delivery


def _through(door: Door, parcel: Parcel) -> None:
    s = parcel.supervision
    emit(events.SEND_STARTED, agent=s.agent, message=s.message, id=parcel.id)
    began = monotonic()
    try:
        if parcel.when_down is WhenDown.ERROR and not door.hosted(parcel):
            raise AgentDown(s.agent or parcel.task)
        door.send(parcel)
    except Exception as error:
        took_s, name = monotonic() - began, type(error).__name__
        emit(events.SEND_FAILED, {"duration_s": took_s}, agent=s.agent, message=s.message, id=parcel.id, error=name)
        raise
    emit(events.SENT, {"duration_s": monotonic() - began}, agent=s.agent, message=s.message, id=parcel.id)
