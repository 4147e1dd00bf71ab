"""The backend that publishes to the app's broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from time import monotonic, time
from typing import Any, Final

from celery import Celery

from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.deliveries.outcome import Outcome, from_wire
from orchestrator.core.errors import AgentDown, BulkheadFull, CircuitOpen, MailboxFull, NotSupervised
from orchestrator.core.forks import lazy_property
from orchestrator.core.policies.policy import WhenDown
from orchestrator.registry.outdated_workers import refuse_outdated
from orchestrator.registry.registering import await_host
from orchestrator.registry.registry import Registry
from orchestrator.sending.backend import SendResult
from orchestrator.sending.broadcast import BroadcastRequest, Refusal, publish_broadcast
from orchestrator.sending.bulk import publish_many
from orchestrator.sending.calls.ask import ask_record
from orchestrator.sending.calls.awaited_calls import AwaitedCalls
from orchestrator.sending.calls.bulk_asks import publish_asks
from orchestrator.sending.calls.inbox import RedisInbox
from orchestrator.sending.calls.stale import RedisStaleReplies
from orchestrator.sending.calls.waits import Waits
from orchestrator.sending.celery_sends import publish_task
from orchestrator.sending.delivery import Awaiter, await_in
from orchestrator.sending.destination import queue_of
from orchestrator.sending.fast_publisher import FastPublisher
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import publish
from orchestrator.sending.tracker import RedisTracker
from orchestrator.transport.admission.ask_record import AskRecord, HostGone, ToLiving, publishing
from orchestrator.transport.admission.flow_control import DuplicateSend, declare_flow
from orchestrator.transport.mailbox_entry import loads
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.lost_answers import again_if_lost
from orchestrator.transport.store import Store
from orchestrator.transport.transport import why_not_supervised

#: What still works on another broker.
_WITHOUT_SUPERVISION: Final = (
    "without supervision, Celery's own sends reach the same agents and tasks there: "
    "app.send_task('AGENT.MESSAGE', [FIELDS]), a beat entry, task.delay(...)"
)

#: How long it is gone by what was read of an agent's hosts: a living one may have stopped to host it.
_HOST_KNOWN_S: Final = 2.0

#: Agents whose hosts are remembered.
_MOST_HOSTS: Final = 1000

#: Celery's settings that decide whether an app's messages are supervised.
_DECISIVE: Final = ("broker_url", "broker_read_url", "broker_write_url", "broker_transport", "task_protocol")


class RedisBackend:
    """Publishes to Redis, and reads outcomes there."""

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
        #: By agent and mailbox: a living incarnation that hosts it, and when that was read.
        self._hosts: dict[tuple[str, str], tuple[str, float]] = {}
        #: The settings with which the app was found to be supervised.
        self._supervised: tuple[Any, ...] | None = None
        self._supervised_by: Any = None
        self._store = store
        self._hidden = hidden

    def send(self, message: OutgoingMessage) -> SendResult:
        """See :class:`orchestrator.sending.backend.Backend`."""
        self._must_supervise()
        self._declare(message)
        host = self._host_of(message) if message.when_down is WhenDown.ERROR else ""
        task = None if message.supervision.agent else self._app.tasks.get(message.task)
        try:
            if task is None:
                self._publish(message, host)
                return SendResult(message.id)
            send = publish_task(self._app, task, message, self._hidden, self._fast.publish)
        except DuplicateSend as duplicate:
            return SendResult(duplicate.first_id)
        return (
            SendResult(message.id) if send is None else SendResult(send.id or message.id, send.published, send.place())
        )

    def _host_of(self, message: OutgoingMessage) -> str:
        """A living incarnation that hosts the message's agent: as was read, or as was known a moment ago.

        Raises:
            AgentDown: there is none.
        """
        agent, queue = message.supervision.agent, queue_of(self._app, message)
        host, read_at = self._hosts.get((agent, queue), ("", 0.0))
        # Only the script that accepts the message may go by what was known.
        asks_script = agent and not (message.countdown_s or message.supervision.idempotency or message.ask)
        if not host or not asks_script or monotonic() - read_at > _HOST_KNOWN_S:
            host = self._registry().host_of(agent, queue)
            if not host and agent:
                host = await_host(self._registry(), agent, queue, _left_s(message))
            if not host:
                self._hosts.pop((agent, queue), None)
                raise AgentDown(agent or message.task)
            if len(self._hosts) >= _MOST_HOSTS:
                self._hosts.clear()
            self._hosts[agent, queue] = host, monotonic()
        return host if asks_script else ""

    def _publish(self, message: OutgoingMessage, host: str) -> None:
        while True:
            request: AskRecord | ToLiving | None = None
            if host:
                request = ToLiving(message.id, host, self._awaited.connection(message))
            if message.ask:
                self._refuse_outdated(queue_of(self._app, message))
                request = ask_record(self._app, self._store(), message, self._hidden)
            try:
                with publishing(request) if request else nullcontext():
                    return publish(self._app, message, self._hidden, try_fast=self._fast.publish)
            except HostGone:
                self._hosts.clear()
                host = self._host_of(message)

    def send_many(self, messages: Sequence[OutgoingMessage]) -> None:
        """See :class:`orchestrator.sending.backend.Backend`."""
        self._must_supervise()
        self._declare(messages[0])
        publish_many(self._app, messages, self._hidden)

    def ask_many(self, requests: Sequence[OutgoingMessage]) -> None:
        """See :class:`orchestrator.sending.backend.Backend`."""
        first = requests[0]
        self._must_supervise()
        self._declare(first)
        self._refuse_outdated(queue_of(self._app, first))
        done = 0
        if first.bulkhead is None:
            done = publish_asks(self._app, self._store(), requests, self._hidden)
        for accepted, request in enumerate(requests[done:], done):
            try:
                self.send(request)
            except (MailboxFull, CircuitOpen, BulkheadFull) as error:
                error.accepted, error.requested = accepted, len(requests)
                raise

    def _refuse_outdated(self, queue: str) -> None:
        # Replies are as old as the release of steps.
        refuse_outdated(self._registry().outdated(), [queue], "send no reply to what it is asked")

    def broadcast(self, request: BroadcastRequest) -> Mapping[int, Refusal]:
        """See :class:`orchestrator.sending.backend.Backend`."""
        self._must_supervise()
        for message in request.copies:
            self._declare(message)
        return publish_broadcast(self._app, self._store(), request, self._hidden)

    def prepare(self, message: OutgoingMessage) -> None:
        """See :class:`orchestrator.sending.backend.Backend`."""
        self._must_supervise()
        self._declare(message)

    def prepare_for_steps(self) -> None:
        """Prepare for messages that Redis itself will send. Raises as :meth:`send`."""
        self._must_supervise()

    def _declare(self, message: OutgoingMessage) -> None:
        """Write the recipient's flow control to Redis before its first message, if no worker has written it yet."""
        agent = message.supervision.agent
        if agent and agent not in self._declared:
            flow = self._flow(agent)
            if flow.declared:
                declare_flow(self._store(), queue_name(message), flow, serves=False)
            self._declared.add(agent)

    def _must_supervise(self) -> None:
        conf: Any = self._app.conf
        changes = conf.changes
        # Working out the transport takes a third of a send.
        seen = None
        if type(changes) is dict:
            seen = (len(changes), *[changes.get(name) for name in _DECISIVE])
            if conf is self._supervised_by and seen == self._supervised:
                return
        self._check_supervised()
        self._supervised, self._supervised_by = seen, conf

    def _check_supervised(self) -> None:
        if self._app.conf.task_protocol != 2:
            raise NotSupervised(f"task_protocol={self._app.conf.task_protocol!r}; allowed: 2")
        if why := why_not_supervised(self._app.conf):
            raise NotSupervised(f"{why}; {_WITHOUT_SUPERVISION}")

    def hosted(self, message: OutgoingMessage) -> bool:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return self._registry().hosted(message.supervision.agent, queue_of(self._app, message))

    def inbox(self, inbox_id: str) -> RedisInbox:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return RedisInbox(self._store, inbox_id)

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return self._awaited.during(request, self._waits.during(request, raises=raises))

    @lazy_property
    def _awaited(self) -> AwaitedCalls:
        return AwaitedCalls(self._store)

    @lazy_property
    def _waits(self) -> Waits:
        return Waits(self._app, self._store)

    def end_ask(self, ask_id: str, why: str) -> bool:
        """See :class:`orchestrator.sending.backend.Backend`."""
        store = self._store()
        return bool(again_if_lost(lambda: store.run(*commands.end_ask(store.keys, ask_id, why))))

    @lazy_property
    def stale(self) -> RedisStaleReplies:
        """See :class:`orchestrator.sending.backend.Backend`."""
        return RedisStaleReplies(self._store)

    @lazy_property
    def tracker(self) -> RedisTracker:
        """See :class:`orchestrator.sending.backend.Backend`."""
        self._must_supervise()
        return RedisTracker(self._app, self._store, self._registry)

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """See :class:`orchestrator.sending.backend.Backend`."""
        until = monotonic() + timeout_s
        raw = self._awaited.outcome(delivery_id, until)
        if raw is not None:
            store = self._store()
            with store.reading(store.keys.outcome(delivery_id)):
                return from_wire(loads(raw))
        return self._await(delivery_id, max(0.0, until - monotonic()))

    @lazy_property
    def _fast(self) -> FastPublisher:
        return FastPublisher(self._app)

    @lazy_property
    def _await(self) -> Awaiter:
        return await_in(self._store)


def _left_s(message: OutgoingMessage) -> float:
    deadline_at_s = message.supervision.binding_deadline_at_s
    return inf if deadline_at_s is None else deadline_at_s - time()
