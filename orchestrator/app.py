"""`Orchestrator`: the one object a user makes. It ties the parts together and holds no rules of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, signals
from celery.canvas import Signature
from celery.utils import uuid
from kombu.utils.imports import symbol_by_name

from orchestrator.agents.agent import Agent, AgentSpec, inspect_agent
from orchestrator.agents.eager import EagerHouse
from orchestrator.agents.guard import Guard
from orchestrator.agents.host import register_handlers, supervise_tasks
from orchestrator.agents.reaping import Reaping
from orchestrator.agents.reporting import Reporting
from orchestrator.core.errors import InvalidDeclaration, InvalidPolicy, NotSupervised, UnknownAgent, UnknownMessage
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.policy import OnError, Retry
from orchestrator.core.settings import Settings, load_settings
from orchestrator.core.supervision import Supervision
from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.stream import StreamDeadLetters
from orchestrator.monitors import manager
from orchestrator.registry.agents import AgentEntry, Registry
from orchestrator.sending.delivery import Delivery, await_in
from orchestrator.sending.ledger import LedgerRow, read_ledger
from orchestrator.sending.mailbox import mailbox
from orchestrator.sending.publish import Parcel, publish
from orchestrator.telemetry import emit, events
from orchestrator.telemetry.switch import switch_on
from orchestrator.transport.store import Store, open_store
from orchestrator.transport.sweep import Sweeper, Swept
from orchestrator.transport.transport import Transport

TRANSPORT = "orchestrator.transport:Transport"
_SCHEMES = ("redis", "rediss", "sentinel")


class _Described:
    """A function among the transport's options, which Celery's remote control shows as JSON."""

    def __init__(self, describe: Callable[[], Mapping[str, str]]) -> None:
        self._describe = describe

    def __call__(self) -> Mapping[str, str]:
        return self._describe()

    def __json__(self) -> str:
        return "the agents hosted"


class Orchestrator:
    """Supervision for a Celery app: ``orchestrator = Orchestrator(app)``, once the app is configured.

    Sets the transport, late acknowledgement, JSON as the only content, a beat entry for the monitor manager,
    and has every task of the app executed and settled under supervision. The app's tasks, canvas, Flower and
    tests go on as before.

    Raises:
        InvalidSettings: a setting has a bad value.
    """

    def __init__(self, app: Celery, settings: Settings | None = None) -> None:
        self.app = app
        self.settings = settings or load_settings()
        self._agents: dict[str, AgentSpec] = {}
        self._sweeper: Sweeper | None = None
        self._configure()
        switch_on(self.settings.telemetry)
        app.orchestrator = self
        app.steps["consumer"].update((Guard, Reaping, Reporting))
        app.on_after_finalize.connect(self._on_finalize, weak=False)
        if app.finalized:
            self._on_finalize()
        manager.install(app, self)
        signals.celeryd_init.connect(self._on_worker_init, weak=False)
        signals.celeryd_after_setup.connect(self._on_worker_set_up, weak=False)
        signals.import_modules.connect(self._on_import_modules, sender=app, weak=False)

    # -- configuration

    def _configure(self) -> None:
        s, conf = self.settings, self.app.conf
        if not conf.broker_url or conf.broker_url == "amqp://":
            conf.broker_url = s.broker_url.get_secret_value()
        if urlsplit(str(conf.broker_url)).scheme in _SCHEMES and not conf.broker_transport:
            conf.broker_transport = TRANSPORT
        conf.broker_transport_options = {
            "heartbeat_s": s.heartbeat_s,
            "suspect_s": s.suspect_s,
            "lease_s": s.lease_s,
            "sweep_stale_s": s.sweep_stale_s,
            "sweep_gap_s": s.sweep_stale_s + 3 * s.heartbeat_s,
            "max_deaths": s.max_deaths,
            "outcome_ttl_s": s.outcome_ttl_s,
            "managed": True,
            "describe": _Described(self._describe),
            **({"global_keyprefix": s.key_prefix} if s.key_prefix else {}),
            **(conf.broker_transport_options or {}),
        }
        conf.update(
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            task_serializer="json",
            result_serializer="json",
            accept_content=["json"],
            broker_connection_retry_on_startup=True,
        )

    def _on_finalize(self, **_: Any) -> None:
        supervise_tasks(self.app)

    def _on_worker_init(self, sender: str = "", instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is self.app:
            self.app.conf.broker_transport_options = {
                **self.app.conf.broker_transport_options,
                "node_name": sender,
            }

    def _on_worker_set_up(self, instance: Any = None, **_: Any) -> None:
        # Everything is imported by now, and nothing has run: tasks that came after finalizing are caught here.
        if instance is not None and instance.app is self.app:
            supervise_tasks(self.app)

    def _on_import_modules(self, **_: Any) -> None:
        # The one moment at which Flower lets an app speak before it serves.
        if "flower.app" in sys.modules:
            from orchestrator.dashboard import install

            install()

    def _describe(self) -> Mapping[str, str]:
        consumed = self.app.amqp.queues.consume_from
        return {"agents": json.dumps(sorted(n for n, a in self._agents.items() if a.queue in consumed))}

    # -- agents

    def host(self, *agents: type[Agent]) -> None:
        """Make agents part of this app: workers of the app can host them, senders know them.

        Raises:
            InvalidDeclaration: a class is not a valid declaration, or its name is taken.
        """
        for cls in agents:
            spec = inspect_agent(cls)
            known = self._agents.get(spec.name)
            if known is not None and known.cls is not cls:
                raise InvalidDeclaration(f"two agents are called {spec.name!r}: {known.cls!r} and {cls!r}")
            if known is None:
                self._agents[spec.name] = spec
                register_handlers(self.app, self, spec)
                self.app.amqp.queues.select_add(mailbox(spec.queue))
        if self.app.finalized:
            supervise_tasks(self.app)

    @property
    def agents(self) -> Mapping[str, AgentSpec]:
        """The agents declared in this process."""
        return dict(self._agents)

    def announce(self, queues: Iterable[str]) -> None:
        """Tell the registry which agents this worker hosts; called when a worker starts consuming.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        consumed = set(queues)
        self.registry.announce(
            AgentEntry(spec.name, spec.queue, tuple(spec.handlers))
            for spec in self._agents.values()
            if spec.queue in consumed
        )

    # -- what Redis holds

    @property
    def eager(self) -> bool:
        """Whether sends run inline (Celery's ``task_always_eager``)."""
        return bool(self.app.conf.task_always_eager)

    @cached_property
    def _house(self) -> EagerHouse:
        return EagerHouse(self.app)

    @cached_property
    def store(self) -> Store:
        """The Redis behind the app's broker URL."""
        return open_store(self.app.connection_for_write())

    @cached_property
    def registry(self) -> Registry:
        """Agents and incarnations."""
        return Registry(self.store)

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: of Redis, or of this process in eager mode."""
        return self._house.dead_letters if self.eager else self._stream_dead_letters

    @cached_property
    def _stream_dead_letters(self) -> DeadLetters:
        return StreamDeadLetters(self.store)

    def ledger(self) -> list[LedgerRow]:
        """Every mailbox' ledger, at one moment.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._house.ledger() if self.eager else read_ledger(self.store)

    def sweep(self) -> Swept:
        """Look for dead workers once, and hand their messages on. The monitor manager's task calls this.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._sweeper is None:
            self._sweeper = self.store.sweeper()
        return self._sweeper.sweep("monitor-manager")

    # -- sending

    def send(
        self,
        recipient: str | type[Agent] | Signature,
        message: Message | None = None,
        *,
        retry: Retry | None = None,
        on_error: OnError | str | None = None,
        countdown_s: float | None = None,
        expires_s: float | None = None,
        priority: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        track: bool = True,
    ) -> Delivery:
        """Send a message to an agent, or a Celery signature to its task, under supervision.

        ``retry`` and ``on_error`` override the handler's and the agent's. ``track=False`` records no outcome to
        wait for, which saves a little. In eager mode the send runs inline, to its end.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            UnknownMessage: the agent does not handle that message.
            InvalidMessage: the message is not JSON data.
            InvalidPolicy: an option has a bad value.
            BrokerUnavailable: Redis did not take it.
            NotSupervised: the app's broker is not one that this library supervises.
            SendFailed: eager mode and ``on_error="raise"``, and it was not handled.
        """
        number = _number("countdown_s", countdown_s), _number("expires_s", expires_s)
        if not isinstance(retry, Retry | None):
            raise InvalidPolicy("retry", retry, "a Retry")
        parcel = self._address(recipient, message, retry, on_error, _json_object("metadata", metadata), track)
        parcel = Parcel(
            id=parcel.id,
            task=parcel.task,
            args=parcel.args,
            kwargs=parcel.kwargs,
            queue=parcel.queue,
            supervision=parcel.supervision,
            countdown_s=parcel.countdown_s if countdown_s is None else number[0],
            expires_s=parcel.expires_s if expires_s is None else number[1],
            priority=parcel.priority if priority is None else _priority(priority),
        )
        s = parcel.supervision
        eager = self.eager
        if not eager:
            self._must_supervise()
        if eager:
            supervise_tasks(self.app)
            self._house.send(parcel)
        else:
            publish(self.app, parcel, self.settings.redact)
        emit(events.SENT, agent=s.agent, message=s.message, id=parcel.id)
        delivery = Delivery(parcel.id, s.agent, s.message, s.on_error, self._house.outcome if eager else self._await)
        if eager and s.on_error is OnError.RAISE:
            delivery.wait(timeout_s=1)
        return delivery

    def _must_supervise(self) -> None:
        transport = self.app.conf.broker_transport
        if not (transport and issubclass(symbol_by_name(transport), Transport)):
            raise NotSupervised(
                f"the broker's transport is {transport or 'what its URL says'}; "
                f"allowed: a redis://, rediss:// or sentinel:// URL with broker_transport={TRANSPORT!r}"
            )

    @cached_property
    def _await(self) -> Any:
        return await_in(self.store)

    def _address(
        self,
        recipient: str | type[Agent] | Signature,
        message: Message | None,
        retry: Retry | None,
        on_error: OnError | str | None,
        metadata: Mapping[str, Any],
        track: bool,
    ) -> Parcel:
        chosen = None if on_error is None else _on_error(on_error)
        if isinstance(recipient, Signature):
            if message is not None:
                raise InvalidPolicy("message", message, "nothing, when a Celery signature is sent")
            if recipient.task.startswith("celery."):
                allowed = "a task's own signature; send a chain, group or chord with Celery, its tasks are supervised"
                raise InvalidPolicy("recipient", recipient, allowed)
            supervision = Supervision(
                retry or Retry(), chosen or OnError.DEAD_LETTER, "", recipient.task, metadata, track=track
            )
            return self._address_task(recipient, supervision)
        if not isinstance(recipient, str) and not (isinstance(recipient, type) and issubclass(recipient, Agent)):
            raise InvalidPolicy("recipient", recipient, "an agent's name, an Agent class, or a Celery signature")
        if not isinstance(message, Message):
            raise InvalidPolicy("message", message, "an instance of a Message class")
        name = message_name(type(message))
        agent = recipient if isinstance(recipient, str) else recipient.name
        spec = self._agents.get(agent)
        if spec is not None:
            handler = spec.handlers.get(name)
            if handler is None:
                raise UnknownMessage(agent, name, spec.handlers)
            supervision = Supervision(
                retry or handler.retry, chosen or spec.on_error, agent, name, metadata, track=track
            )
            return Parcel(uuid(), spec.task_name(name), [encode(message)], supervision, queue=spec.queue)
        entry = self._announced(agent)
        if name not in entry.messages:
            raise UnknownMessage(agent, name, entry.messages)
        supervision = Supervision(retry or Retry(), chosen or OnError.DEAD_LETTER, agent, name, metadata, track=track)
        return Parcel(uuid(), f"{agent}.{name}", [encode(message)], supervision, queue=mailbox(entry.queue))

    def _address_task(self, signature: Signature, supervision: Supervision) -> Parcel:
        options = {name: value for name, value in signature.options.items() if value is not None}
        refused = sorted(set(options) - {"task_id", "queue", "countdown", "expires", "priority"})
        if refused:
            allowed = "task_id, queue, countdown, expires, priority; send callbacks with Celery"
            raise InvalidPolicy("signature options", refused, allowed)
        task = self.app.tasks.get(signature.task)
        if task is not None and not task.acks_late:
            raise InvalidPolicy("acks_late", False, f"True, for {signature.task} to be supervised")
        return Parcel(
            options.get("task_id") or uuid(),
            signature.task,
            signature.args,
            supervision,
            signature.kwargs,
            queue=options.get("queue"),
            countdown_s=_number("countdown", options.get("countdown")),
            expires_s=_number("expires", options.get("expires")),
            priority=_priority(options.get("priority")),
        )

    def _announced(self, agent: str) -> AgentEntry:
        announced = {} if self.eager else self.registry.agents()
        if agent not in announced:
            raise UnknownAgent(agent, {*self._agents, *announced})
        return announced[agent]


def _number(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 365 * 24 * 3600:
        raise InvalidPolicy(name, value, "seconds from 0 to a year")
    return float(value)


def _json_object(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    allowed = "an object of JSON data"
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidPolicy(name, value, allowed)
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidPolicy(name, value, allowed) from None
    return dict(value)


def _priority(value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 9):
        raise InvalidPolicy("priority", value, "0 (first) to 9 (last)")
    return value


def _on_error(value: OnError | str) -> OnError:
    try:
        return OnError(value)
    except ValueError:
        raise InvalidPolicy("on_error", value, ", ".join(OnError)) from None
