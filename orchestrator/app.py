"""`Orchestrator`: the one object a user makes. It ties the parts together and holds no rules of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from celery import Celery, Task, signals
from celery.canvas import Signature

from orchestrator.agents.agent import Agent, AgentSpec
from orchestrator.agents.check_fields import checked_fields
from orchestrator.agents.directory import Directory
from orchestrator.agents.task_arguments import TaskArguments
from orchestrator.agents.unknown_names import unknown_names
from orchestrator.core.errors import CallerError, InvalidPolicy, InvalidSettings, OrchestratorError
from orchestrator.core.extras import require_extra
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.core.masked_repr import hide_in_reprs
from orchestrator.core.message import Message
from orchestrator.core.policy import OnError, Retry, WhenDown
from orchestrator.core.settings import Settings, load_settings
from orchestrator.core.supervision import Supervision
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis_store import RedisDeadLetterStore
from orchestrator.deadletters.store import DeadLetterStore
from orchestrator.eager.backend import EagerBackend
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.maintenance import manager
from orchestrator.maintenance.dead_letter_retention import retention_policy_of
from orchestrator.maintenance.dead_letters import MaintenanceResult, run_maintenance
from orchestrator.monitors.in_memory import InMemoryMonitors
from orchestrator.monitors.monitors import Monitors
from orchestrator.monitors.redis_monitors import RedisMonitors
from orchestrator.registry.mailboxes import MailboxState, read_mailboxes
from orchestrator.registry.registry import AgentEntry, Registry
from orchestrator.sending.address import Address
from orchestrator.sending.broadcast import Strategy, strategy_of
from orchestrator.sending.call import call, check_fallback, check_timeout
from orchestrator.sending.celery_sends import SendTask
from orchestrator.sending.deliveries import Deliveries
from orchestrator.sending.delivery import Delivery
from orchestrator.sending.ledger import LedgerRow, housekeeping_of, mailboxes_of, read_ledger
from orchestrator.sending.lookup import look_up
from orchestrator.sending.mailbox import mailbox
from orchestrator.sending.masked_amqp import mask_arguments
from orchestrator.sending.report import Report
from orchestrator.sending.send_options import SendOptions
from orchestrator.sending.sender import Backend, RedisBackend, Sender
from orchestrator.telemetry.switch import switch_on
from orchestrator.transport.admission.flow_control import close_breaker, declare_flow
from orchestrator.transport.liveness.sweep import Sweeper, SweepResult
from orchestrator.transport.redis.dataset import DatasetRecord
from orchestrator.transport.store import Store, open_store
from orchestrator.transport.transport import is_supervised
from orchestrator.worker.configuration import Configuration
from orchestrator.worker.dead_letter_unprocessable import DeadLetterUnprocessable
from orchestrator.worker.examine_redis import Examination, ExamineRedis, warn_sender
from orchestrator.worker.exit_reason import RecordExitReason
from orchestrator.worker.forward_telemetry import ForwardTelemetry
from orchestrator.worker.heartbeat_fields import HeartbeatFields
from orchestrator.worker.hosting import register_handlers, supervise_tasks
from orchestrator.worker.masked_logs import mask_logs
from orchestrator.worker.pools import release_tasks, why_unknown
from orchestrator.worker.prefetch import claim_by_free_slots
from orchestrator.worker.reap_pool import ReapPool
from orchestrator.worker.result_storage import keep_storing
from orchestrator.worker.served_tasks import served_tasks
from orchestrator.worker.startup_warnings import governed_tasks, own_tasks, startup_warnings
from orchestrator.worker.validate_timeouts import (
    ValidateTimeouts,
    refuse_app,
    refuse_policies,
    refuse_worker,
    useless_limits,
)

logger = get_logger(__name__)


class Orchestrator:
    """Supervision for a Celery app: ``orchestrator = Orchestrator(app)``, before or after the app is configured.

    Sets the transport, late acknowledgement and JSON as the only content, has beat start the monitor manager's work,
    and has every task of the app executed and settled under supervision. The app's tasks, canvas, Flower and
    tests go on as before.

    What the app's own configuration says is read when Celery reads it. What in it cannot work is refused by the first
    send and by a worker's start.

    Raises:
        InvalidSettings: a setting of this library has a bad value, two do not fit together, or the app has one already.
    """

    def __init__(self, app: Celery, settings: Settings | None = None) -> None:
        if getattr(app, "orchestrator", None) is not None:
            raise InvalidSettings(
                [f"Orchestrator({app!r}): the app has one already; allowed: one, as app.orchestrator"]
            )
        self.app = app
        self.settings = settings or load_settings()
        self._directory = Directory(app, self._announced, self.settings)
        self._sender = Sender(app, self._directory, self._door)
        self._sweeper: Sweeper | None = None
        self._description = HeartbeatFields(app, self._directory.declared, self.settings.app_version)
        #: What is changed in the app's configuration.
        self.configuration = Configuration(
            app,
            self.settings,
            self._description,
            lambda i, reason: self._stored.on_death(i, reason),
            lambda: self.hidden,
        )
        self._hide()
        app.orchestrator = self
        mask_arguments(app)
        app.send_task = SendTask(app, self._to_agent)
        app.steps["worker"].update((RecordExitReason, ExamineRedis, ValidateTimeouts))
        app.steps["consumer"].update((DeadLetterUnprocessable, ReapPool, ForwardTelemetry))
        app.on_after_finalize.connect(self._on_finalize, weak=False)
        if app.finalized:
            self._on_finalize()
        manager.install(app, self)
        signals.celeryd_init.connect(self._on_worker_init, weak=False)
        signals.worker_init.connect(self._on_worker_configured, weak=False)
        signals.celeryd_after_setup.connect(self._on_worker_set_up, weak=False)

    def _to_agent(self, task: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._sender.by_celery(task, options)

    def default_supervision(self, agent: str, message: str) -> Supervision:
        """How a message of an agent declared here is supervised that says nothing of it."""
        return self._sender.default_supervision(self._directory.address(agent, message))

    def _on_finalize(self, **_: Any) -> None:
        supervise_tasks(self.app)

    def _on_worker_init(self, sender: str = "", instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is self.app:
            self._description.worker = instance
            HEALTH_REPORTER.publish(app=self.app.main or "", broker=self.app.connection_for_read().as_uri())
            HEALTH_REPORTER.start(sender, self._should_consume)
            self.configuration.node_name = sender
            keep_storing(self.app)

    def _on_worker_configured(self, sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is self.app:
            self.configuration.claim_ahead = claim_by_free_slots(sender)

    def _should_consume(self) -> bool:
        state = sys.modules.get("celery.worker.state")
        ends = (getattr(state, name, None) for name in ("should_stop", "should_terminate"))
        # An exit code of 0 is a wish to stop, too.
        if any(code is not None and code is not False for code in ends):
            return False
        return bool(self.app.amqp.queues.consume_from)

    def _on_worker_set_up(self, instance: Any = None, **_: Any) -> None:
        # Everything is imported by now, and nothing has run: tasks that came after finalizing are caught here.
        if instance is not None and instance.app is self.app:
            supervise_tasks(self.app)
            if why := why_unknown(instance.pool_cls):
                release_tasks(self.app, why)
            known = [*self._directory.addresses(), *governed_tasks(self.app, self.settings.time_limits)]
            served = served_tasks(self.app, set(self.app.amqp.queues.consume_from), self._directory.mailboxes())
            said = startup_warnings(self.app, known, instance.pool_cls, served)
            for line in (*said, *useless_limits(instance), *self.unknown_names()):
                logger.warning("%s", line)

    def served(self, addresses: Iterable[Address], queues: Collection[str]) -> list[Address]:
        """Those of the messages that a worker of these queues gets."""
        tasks = served_tasks(self.app, queues, self._directory.mailboxes())
        # Of an agent that is not declared here, only the mailbox is known.
        return [a for a in addresses if a.task in tasks or (a.task not in self.app.tasks and str(a.queue) in queues)]

    def unknown_names(self) -> list[str]:
        """Names in the settings that nobody has, a line for each, as far as this process and Redis know."""
        s = self.settings
        if not (s.timeouts or s.deadlines or s.mailboxes or s.breakers):
            return []
        agents: dict[str, Collection[str]] = {}
        with contextlib.suppress(OrchestratorError):
            agents = {name: entry.messages for name, entry in self._announced().items()}
        agents |= {name: [*spec.handlers, "on_down"] for name, spec in self.agents.items()}
        return unknown_names(s, agents, [name for name, _ in own_tasks(self.app)])

    # -- agents

    def host(self, *agents: type[Agent]) -> None:
        """Make agents part of this app: workers of the app can host them, senders know them.

        Raises:
            InvalidDeclaration: a class is not a valid declaration, or its name is taken.
            InvalidSettings: timeouts and deadlines that come together here cannot work.
        """
        for cls in agents:
            spec = self._directory.declare(cls)
            if spec is not None:
                refuse_policies(self._directory.addresses_of(spec))
                self.configuration.add_mailbox(mailbox(spec.queue))
                register_handlers(self.app, self, spec)
        self._hide()
        if self.app.finalized:
            supervise_tasks(self.app)

    def _hide(self) -> None:
        switch_on(self.settings.telemetry, self.hidden)
        mask_logs(self.hidden)
        hide_in_reprs(self.hidden)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of fields that texts do not show: the settings', and the secrets of agents declared here."""
        return (*self.settings.redact, *self._directory.secrets)

    def hidden_of(self, supervision: Supervision | None) -> tuple[str, ...]:
        """The same, and the names of the secret fields of one message."""
        return self.hidden if supervision is None else (*self.hidden, *supervision.hide)

    def validate_timeouts(self, worker: Any) -> None:
        """Refuse to start a worker whose times cannot fit together; its bootstep calls this.

        Raises:
            InvalidSettings: they cannot; says which, and what is allowed.
        """
        if self.settings.metrics_port:
            require_extra(f"metrics_port={self.settings.metrics_port}", "prometheus_client", "prometheus")
        refuse_app(self.app, self.configuration)
        refuse_worker(worker, self._directory.addresses(), self.settings.time_limits)

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        """The agents declared in this process."""
        return dict(self._directory.declared)

    def announce(self, queues: Iterable[str]) -> None:
        """Tell the registry which agents this worker hosts; called when a worker starts consuming.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        entries = self._directory.entries(queues)
        self.registry.announce(entries)
        for entry in entries:
            declare_flow(self.store, entry.queue, self._directory.flow(entry.name), serves=True)

    def _announced(self) -> Mapping[str, AgentEntry]:
        return {} if self.eager else self.registry.agents()

    # -- what Redis holds

    @property
    def eager(self) -> bool:
        """Whether sends run inline (Celery's ``task_always_eager``)."""
        return bool(self.app.conf.task_always_eager)

    @cached_property
    def _house(self) -> EagerBackend:
        return EagerBackend(self.app, self._directory.flow)

    @cached_property
    def _broker(self) -> RedisBackend:
        refuse_app(self.app, self.configuration)
        return RedisBackend(
            self.app, lambda: self.store, lambda: self.registry, self.settings.redact, self._directory.flow
        )

    def reset(self) -> None:
        """Forget everything that eager mode has in memory: letters, outcomes, counts, breakers, keys, monitors.

        For tests, which share an app. Objects got before, such as a dead-letter log, go on with the old state.

        Raises:
            CallerError: this is not eager mode; what is in Redis is not deleted.
        """
        if not self.eager:
            raise CallerError("reset() is for eager mode; allowed: an app with task_always_eager")
        for name in ("_house", "_eager_dead_letters", "_remembered"):
            self.__dict__.pop(name, None)

    def _door(self) -> Backend:
        return self._house if self.eager else self._broker

    @property
    def supervised(self) -> bool:
        """Whether the app's broker is one that this library supervises.

        Raises:
            InvalidSettings: the broker's URL cannot be used.
        """
        return is_supervised(self.app.conf.broker_transport)

    @cached_property
    def store(self) -> Store:
        """The Redis behind the app's broker URL.

        Raises:
            InvalidSettings: the broker's URL cannot be used.
            NotSupervised: the broker is not one that this library supervises.
            BrokerUnavailable: Redis is away.
        """
        store = self._open_store()
        if not HEALTH_REPORTER.is_worker():
            warn_sender(store, self.settings.eviction)
        return store

    def _open_store(self) -> Store:
        return open_store(self.app.connection_for_write())

    @cached_property
    def examination(self) -> Examination:
        """What a worker does before it starts on this Redis."""
        return Examination(self._open_store, self.settings.eviction)

    @cached_property
    def registry(self) -> Registry:
        """Agents and incarnations."""
        return Registry(self.store)

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: of Redis, or of this process in eager mode."""
        return self._eager_dead_letters if self.eager else self._stream_dead_letters

    @cached_property
    def _stream_dead_letters(self) -> DeadLetters:
        return self._letters_on(RedisDeadLetterStore(self.store))

    @cached_property
    def _eager_dead_letters(self) -> DeadLetters:
        return self._letters_on(self._house.letters)

    def _letters_on(self, store: DeadLetterStore) -> DeadLetters:
        hidden = self.settings.redact
        checked = partial(checked_fields, self._directory.declared, hidden)
        return DeadLetters(store, hidden, checked, TaskArguments(self.app))

    def maintain_dead_letters(self) -> MaintenanceResult:
        """Retry, park, expire and trim dead letters, as the settings say. The monitor manager does this now and then.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return run_maintenance(self.dead_letters, retention_policy_of(self.settings))

    @property
    def monitors(self) -> Monitors:
        """Monitors: those of Redis, or of this process in eager mode."""
        return self._remembered if self.eager else self._stored

    def monitor_store(self) -> RedisMonitors:
        """The monitors of Redis, whatever the mode."""
        return self._stored

    @cached_property
    def _stored(self) -> RedisMonitors:
        return RedisMonitors(self.app, lambda: self.store, lambda: self.agents, self.settings)

    @cached_property
    def _remembered(self) -> InMemoryMonitors:
        return InMemoryMonitors(self.app, self._house.send, lambda: self.agents)

    def ledger(self) -> list[LedgerRow]:
        """Every mailbox' ledger, at one moment; the monitor manager's is :meth:`housekeeping_ledger`.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._house.ledger() if self.eager else mailboxes_of(read_ledger(self.store))

    def housekeeping_ledger(self) -> LedgerRow:
        """The ledger of the messages by which beat starts the monitor manager's work.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return housekeeping_of([] if self.eager else read_ledger(self.store))

    def dataset(self) -> DatasetRecord | None:
        """Since when Redis counts, and what it is known to have lost; ``None`` in eager mode, or before any worker.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return None if self.eager else self.store.dataset()

    def sweep(self) -> SweepResult:
        """Look for dead workers once, and hand their messages on. The monitor manager calls this.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._sweeper is None:
            self._sweeper = self.store.sweeper()
        return self._sweeper.sweep(HOUSEKEEPING_QUEUE)

    @cached_property
    def _manager(self) -> manager.Manager:
        return manager.Manager(self)

    def run_housekeeping(self) -> list[str]:
        """Do one round of the monitor manager's work: a sweep, then the chores that are due. Returns the chores' names.

        A worker that consumes ``monitor-manager`` calls this whenever beat asks for it; not for two threads at once.

        Raises:
            BrokerUnavailable, redis.exceptions.RedisError: Redis is away.
        """
        return self._manager.run()

    def mailboxes(self) -> list[MailboxState]:
        """Every mailbox as it is now: what waits in it, since when, its bound and breaker, and who serves it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return [] if self.eager else read_mailboxes(self.store, self.registry.incarnations())

    def close_breaker(self, agent: str | type[Agent]) -> bool:
        """Close an agent's circuit breaker by hand, so that sends go through again. Whether it was open or half-open.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            InvalidPolicy: the agent has no circuit breaker.
            BrokerUnavailable: Redis is away.
        """
        name = agent if isinstance(agent, str) else agent.name
        queue = self._directory.queue_of(name)
        was_open = self._house.close_breaker(name) if self.eager else close_breaker(self.store, queue)
        if was_open is None:
            raise InvalidPolicy("agent", name, "an agent that has a circuit breaker")
        return was_open

    def delivery(self, delivery: str | Delivery) -> Delivery:
        """The delivery with that id, wherever it was sent; or one that was unpickled, with a connection.

        An id is looked for among the recorded outcomes, in every mailbox (about a millisecond per thousand waiting
        messages), and among the newest dead letters. ``wait`` then returns the outcome whatever its ``on_error`` says.

        Raises:
            UnknownDelivery: the id is wrong, its record has expired, or it was not tracked and has ended.
            NotSupervised: the app's broker is not one that this library supervises.
            BrokerUnavailable: Redis is away.
        """
        door = self._door()
        if isinstance(delivery, Delivery):
            return delivery.attached(door.outcome, door.tracker)
        return look_up(delivery, door.outcome, door.tracker, self._letter_record)

    def _letter_record(self, delivery_id: str) -> Mapping[str, Any] | None:
        letter = self.dead_letters.of_delivery(delivery_id)
        return None if letter is None else letter.record()

    # -- sending

    def address(self, recipient: str | type[Agent], message: str) -> Address:
        """Where that message (by its name) goes, and the policy that applies to a send that says nothing itself.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            UnknownMessage: the agent does not handle that message.
        """
        return self._directory.address(recipient, message)

    def send(
        self,
        recipient: str | type[Agent] | Signature | Task,
        message: Message | None = None,
        *,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        countdown_s: float | None = None,
        eta: datetime | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        when_down: WhenDown | str | None = None,
        dead_letter_expired: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        track: bool = True,
        idempotency_key: str | None = None,
        idempotency_ttl_s: float = 24 * 3600.0,
    ) -> Delivery:
        """Send a message to an agent, or a Celery signature (or task, without arguments), under supervision.

        What is said here overrides the settings', the handler's and the agent's word. ``timeout_s`` bounds each
        attempt, ``deadline_s`` all of them, counted from now; ``expires_s`` the wait for the first, and with
        ``dead_letter_expired`` one that waited too long is a dead letter. It is not handled
        before ``countdown_s`` seconds have passed, or ``eta``. ``track=False`` records no outcome to wait for, which
        saves a little. Of sends to one recipient with the same ``idempotency_key`` the first is accepted; the others
        get its delivery, while it is pending and for ``idempotency_ttl_s`` after its outcome. In eager mode the send
        runs inline, to its end, and waits for nothing.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            UnknownMessage: the agent does not handle that message.
            InvalidMessage: the message is not JSON data.
            InvalidPolicy: an option has a bad value.
            AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
            MailboxFull: the agent's mailbox is bounded, full, and not one that drops.
            CircuitOpen: the agent's circuit breaker is open.
            BrokerUnavailable: Redis did not take it.
            NotSupervised: the app's broker is not one that this library supervises.
            SendFailed: eager mode and ``on_error="raise"``, and it was not handled.
        """
        options = SendOptions.checked(
            retry=retry,
            on_error=on_error,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            countdown_s=countdown_s,
            eta=eta,
            expires_s=expires_s,
            priority=priority,
            when_down=when_down,
            dead_letter_expired=dead_letter_expired,
            metadata=metadata,
            track=track,
            idempotency_key=idempotency_key,
            idempotency_ttl_s=idempotency_ttl_s,
        )
        return self._sender.send(recipient, message, options)

    def call(
        self,
        recipient: str | type[Agent] | Signature | Task,
        message: Message | None = None,
        *,
        timeout_s: float,
        fallback: bool | Mapping[str, Any] | None = False,
    ) -> Any:
        """Ask, and wait for the reply: what the handler returned, as JSON data.

        It is tried once and leaves no dead letter: its caller is told. With ``fallback`` (true, or the options of a
        :meth:`send`) a call that does not succeed is sent under supervision instead, and a
        :class:`FallbackDelivery` says so.
        The settings' ``timeout_factor`` applies.

        Raises:
            AgentDown: no living worker hosts the agent.
            DeliveryTimeout: there was no reply in time. The request was cancelled; if it had begun, it may still end.
            SendFailed: it was not handled.
            CallerError, BrokerUnavailable: as :meth:`send`.
        """
        patience_s = check_timeout(timeout_s) * self.settings.timeout_factor
        options = SendOptions.checked(
            retry=Retry(max_retries=0), on_error=OnError.IGNORE, deadline_s=timeout_s, when_down=WhenDown.ERROR
        )
        later = check_fallback(fallback)
        return call(
            lambda: self._sender.send(recipient, message, options),
            patience_s,
            None if later is None else lambda: self._sender.send(recipient, message, later),
        )

    def send_many(
        self,
        recipient: str | type[Agent],
        messages: Iterable[Message],
        *,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        countdown_s: float | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        when_down: WhenDown | str | None = None,
        dead_letter_expired: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        track: bool = True,
    ) -> Deliveries:
        """Send many messages to one agent, in their order and in few round trips. Options as for :meth:`send`.

        Raises:
            MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many messages.
            OrchestratorError: as :meth:`send`; a caller's mistake is found before anything is sent.
        """
        options = SendOptions.checked(
            retry=retry,
            on_error=on_error,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            countdown_s=countdown_s,
            expires_s=expires_s,
            priority=priority,
            when_down=when_down,
            dead_letter_expired=dead_letter_expired,
            metadata=metadata,
            track=track,
        )
        return self._sender.send_many(recipient, messages, options)

    def broadcast(
        self,
        recipients: Iterable[str | type[Agent]],
        message: Message,
        *,
        strategy: Strategy | str = Strategy.BEST_EFFORT,
        compensate: Message | None = None,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        dead_letter_expired: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Report:
        """Send a copy of a message to each of many agents, in one step inside Redis.

        A recipient that nobody living serves, whose mailbox is full or whose circuit breaker is open cannot take it.
        With ``all_or_nothing`` one such recipient stops it; with ``at_least_one`` all of them do; with ``best_effort``
        they get none, and the report says so. When a copy ends in anything but *handled*, those who handled theirs,
        or do so later, are sent ``compensate``; Redis sees to that, whether the sender lives or not.

        Raises:
            BroadcastRefused: the strategy forbids to send it; nothing was sent. Names the recipients and why.
            OrchestratorError: as :meth:`send`; a caller's mistake is found before anything is sent.
        """
        options = SendOptions.checked(
            retry=retry,
            on_error=on_error,
            timeout_s=timeout_s,
            deadline_s=deadline_s,
            expires_s=expires_s,
            priority=priority,
            dead_letter_expired=dead_letter_expired,
            metadata=metadata,
        )
        return self._sender.broadcast(recipients, message, strategy_of(strategy), compensate, options)
