"""The wiring under :class:`orchestrator.app.Orchestrator`: what boot steps, the command line and handlers' tasks use.

Nothing here is part of the public interface. What depends on where messages are is in one of two classes:
:class:`orchestrator.redis_mode.RedisMode`, or :class:`orchestrator.eager.eager_mode.EagerMode` for an app with
``task_always_eager``. Which of them applies is looked up at each use: a process may switch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from orchestrator.agents.agent import Agent
from orchestrator.agents.cancellation import Cancellation
from orchestrator.agents.directory import Directory
from orchestrator.agents.unknown_names import unknown_names
from orchestrator.core.conversation import MOST_AGENTS, Conversation, check_data
from orchestrator.core.errors import CallerError, InvalidPolicy, OrchestratorError
from orchestrator.core.forks import ForkSafeLock, lazy_property
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.masked_repr import hide_in_reprs
from orchestrator.core.settings import Settings
from orchestrator.core.supervision import Supervision
from orchestrator.maintenance.housekeeping_clock import start_with_beat
from orchestrator.sending.agent_messages import new_id
from orchestrator.sending.ask import Asker
from orchestrator.sending.backend import Backend
from orchestrator.sending.caller import Caller
from orchestrator.sending.celery_sends import SendTask
from orchestrator.sending.delivery import Delivery
from orchestrator.sending.lookup import look_up
from orchestrator.sending.mailbox import mailbox
from orchestrator.sending.masked_amqp import mask_arguments
from orchestrator.sending.sender import Sender
from orchestrator.telemetry.switch import switch_on
from orchestrator.transport.redis import commands
from orchestrator.transport.transport import is_supervised
from orchestrator.worker.configuration import Configuration, OrchestratedSettings
from orchestrator.worker.heartbeat_fields import HeartbeatFields
from orchestrator.worker.hosting import register_handlers, supervise_tasks
from orchestrator.worker.masked_logs import mask_logs
from orchestrator.worker.replacement_failed import add_tasks

if TYPE_CHECKING:
    from orchestrator.agents.breakers import Breakers
    from orchestrator.agents.expand import Expand
    from orchestrator.agents.step_context import StepContext
    from orchestrator.coordination.coordination import Coordination
    from orchestrator.coordination.distribution.distributor import Distributor
    from orchestrator.coordination.distribution.hierarchies import Hierarchies
    from orchestrator.coordination.stats import CoordinationStats
    from orchestrator.deadletters.log import DeadLetters
    from orchestrator.eager.eager_mode import EagerMode
    from orchestrator.maintenance.dead_letters import MaintenanceResult
    from orchestrator.maintenance.manager import Manager
    from orchestrator.monitors.monitors import Monitors
    from orchestrator.monitors.redis_monitors import RedisMonitors
    from orchestrator.redis_mode import RedisMode
    from orchestrator.registry.mailboxes import MailboxState
    from orchestrator.registry.registry import AgentEntry, Registry
    from orchestrator.schedules.schedules import Schedules
    from orchestrator.sending.address import Address
    from orchestrator.timeouts.timeouts import Timeouts
    from orchestrator.transport.liveness.sweep import SweepResult
    from orchestrator.transport.options import DeathHook
    from orchestrator.transport.store import Store
    from orchestrator.worker.owner import Owner
    from orchestrator.workflows.function import WorkflowFunction
    from orchestrator.workflows.records import RunsBackend
    from orchestrator.workflows.workflows import Workflows

# By name: only a worker imports them.
_WORKER_STEPS = (
    "orchestrator.worker.exit_reason:RecordExitReason",
    "orchestrator.worker.examine_redis:ExamineRedis",
    "orchestrator.worker.validate_timeouts:ValidateTimeouts",
)
_CONSUMER_STEPS = (
    "orchestrator.worker.dead_letter_unprocessable:DeadLetterUnprocessable",
    "orchestrator.worker.reap_pool:ReapPool",
    "orchestrator.worker.forward_telemetry:ForwardTelemetry",
    "orchestrator.maintenance.housekeeping:Housekeeping",
    "orchestrator.maintenance.substitute_scheduler:ScheduleInPlaceOfBeat",
    "orchestrator.coordination.candidates:CampaignForSingletons",
)


class Runtime:
    """The parts that belong to one app, and the mode that it is in."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.directory = Directory(app, self.announced, settings)
        self.sender = Sender(app, self.directory, self.backend)
        self.caller = Caller(self.directory, self.backend, self.sender)
        self.asker = Asker(app, self.directory, self.backend)
        self.heartbeat_fields = HeartbeatFields(app, self.directory.declared, settings.app_version)
        self.configuration = Configuration(
            app, settings, self.heartbeat_fields, self._death_hooks(), self._run_due, lambda: self.hidden
        )
        #: While one of the two is made: there is one of each, however many threads ask first.
        self._making = ForkSafeLock()
        self._redis: RedisMode | None = None
        self._eager: EagerMode | None = None
        self._manager: Manager | None = None
        #: The workflow functions that are declared here, by the names of their tasks.
        self.functions: dict[str, WorkflowFunction[..., Any]] = {}
        self._hide()

    def install(self) -> None:
        """Put the sends, boot steps and signal handlers into the app, which has its Orchestrator by now."""
        app = self.app
        mask_arguments(app)
        app.send_task = SendTask(app, lambda task, options: self.sender.by_celery(task, options))
        app.steps["worker"].update(_WORKER_STEPS)
        app.steps["consumer"].update(_CONSUMER_STEPS)
        add_tasks(app)
        app.on_after_finalize.connect(self._on_finalize, weak=False)
        if app.finalized:
            self._on_finalize()
        # The monitor manager: beat fills its mailbox, and workers that consume it do the housekeeping.
        self.configuration.add_mailbox(mailbox(HOUSEKEEPING_QUEUE, longest=1))
        start_with_beat(app, self.settings.sweep_interval_s)
        if "celery.bin" in sys.modules:
            # `celery control` knows the commands that are registered once the app is loaded: ours is `deploy`.
            from orchestrator.worker import exit_reason  # noqa: F401
        signals.celeryd_init.connect(self._on_worker_init, weak=False)
        signals.worker_init.connect(self._on_worker_configured, weak=False)
        signals.celeryd_after_setup.connect(self._on_worker_set_up, weak=False)

    def _on_finalize(self, **_: Any) -> None:
        supervise_tasks(self.app)

    # -- a worker's start

    def _on_worker_init(self, sender: str = "", instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is self.app:
            from orchestrator.worker.start import begin_worker

            begin_worker(self, sender, instance)

    def _on_worker_configured(self, sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is self.app:
            from orchestrator.worker.prefetch import claim_by_free_slots

            self.configuration.claim_ahead = claim_by_free_slots(sender)

    def _on_worker_set_up(self, instance: Any = None, **_: Any) -> None:
        # Everything is imported by now, and nothing has run: tasks that came after finalizing are caught here.
        if instance is not None and instance.app is self.app:
            from orchestrator.worker.start import warn_at_start

            supervise_tasks(self.app)
            warn_at_start(self, instance)

    def validate_timeouts(self, worker: Any) -> None:
        """Refuse to start a worker whose timeouts contradict each other.

        Raises:
            InvalidSettings: they do; names the values, and what is allowed.
        """
        from orchestrator.worker.start import refuse_start

        refuse_start(self, worker)

    def announce(self, queues: Iterable[str]) -> None:
        """Enter in the registry which agents this worker hosts; called when a worker starts consuming.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self.redis.announce(self.directory.entries(queues))

    # -- agents

    def host(self, agents: Iterable[type[Agent]]) -> None:
        """Declare agents; see :meth:`orchestrator.app.Orchestrator.host`."""
        from orchestrator.worker.validate_timeouts import refuse_policies

        for cls in agents:
            spec = self.directory.declare(cls)
            if spec is not None:
                refuse_policies(self.directory.addresses_of(spec))
                self.configuration.add_mailbox(mailbox(spec.queue))
                register_handlers(self.app, self.app.orchestrator, spec)
        self._hide()
        if self.app.finalized:
            supervise_tasks(self.app)

    def announced(self) -> Mapping[str, AgentEntry]:
        """The agents that workers have entered in the registry; none in eager mode.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return {} if self.eager else self.registry.agents()

    def default_supervision(self, agent: str, message: str) -> Supervision:
        """The supervision of a message, for an agent declared here, whose send sets no options."""
        return self.sender.default_supervision(self.directory.address(agent, message))

    def served(self, addresses: Iterable[Address], queues: Collection[str]) -> list[Address]:
        """Those of the addresses whose messages go to a worker that consumes these queues."""
        from orchestrator.worker.served_tasks import served_tasks

        tasks = served_tasks(self.app, queues, self.directory.mailboxes())
        # Of an agent that is not declared here, only the mailbox is known.
        return [a for a in addresses if a.task in tasks or (a.task not in self.app.tasks and str(a.queue) in queues)]

    def unknown_names(self) -> list[str]:
        """Names in the settings that no agent, message or task has: a line for each.

        Looks at what is declared in this process and announced in Redis.
        """
        s = self.settings
        if not (s.timeouts or s.deadlines or s.mailboxes or s.breakers):
            return []
        from orchestrator.worker.startup_warnings import own_tasks

        agents: dict[str, Collection[str]] = {}
        with suppress(OrchestratorError):
            agents = {name: entry.messages for name, entry in self.announced().items()}
        agents |= {name: [*spec.handlers, "on_down"] for name, spec in self.directory.declared.items()}
        return unknown_names(s, agents, [name for name, _ in own_tasks(self.app)])

    # -- hidden fields

    def _hide(self) -> None:
        switch_on(self.settings.telemetry, self.hidden)
        mask_logs(self.hidden)
        hide_in_reprs(self.hidden)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of fields whose values are masked: the settings', and the secrets of agents declared here."""
        return (*self.settings.redact, *self.directory.secrets)

    def hidden_of(self, supervision: Supervision | None) -> tuple[str, ...]:
        """The same, and the names of the secret fields of one message."""
        return self.hidden if supervision is None else (*self.hidden, *supervision.hide)

    # -- where messages are

    @property
    def eager(self) -> bool:
        """Whether sends run inline (Celery's ``task_always_eager``)."""
        conf = self.app.conf
        return conf.is_eager if type(conf) is OrchestratedSettings else bool(conf.task_always_eager)

    @property
    def supervised(self) -> bool:
        """Whether the app's broker is one that this library supervises.

        Raises:
            InvalidSettings: the broker's URL cannot be used.
        """
        return is_supervised(self.app.conf.broker_transport)

    @property
    def mode(self) -> RedisMode | EagerMode:
        """Eager mode or Redis, as the app's settings say now."""
        return self.eager_mode if self.eager else self.redis

    @property
    def redis(self) -> RedisMode:
        """What Redis holds, whatever the mode. Nothing connects before it is used."""
        if self._redis is not None:
            return self._redis
        from orchestrator.redis_mode import RedisMode

        with self._making:
            if self._redis is None:
                self._redis = RedisMode(self.app, self.settings, self.directory, self.configuration)
            return self._redis

    @property
    def eager_mode(self) -> EagerMode:
        """What eager mode holds in memory."""
        if (eager := self._eager) is not None:
            return eager
        from orchestrator.eager.eager_mode import EagerMode

        with self._making:
            if self._eager is None:
                self._eager = EagerMode(self.app, self.settings, self.directory)
            return self._eager

    def reset_eager_mode(self) -> None:
        """Begin again with nothing in memory.

        Raises:
            CallerError: this is not eager mode.
        """
        if not self.eager:
            raise CallerError("reset() is for eager mode; allowed: an app with task_always_eager")
        self._eager = None

    def backend(self) -> Backend:
        """Where a send goes now."""
        return self.mode.backend

    @property
    def store(self) -> Store:
        """The Redis behind the app's broker URL; see :attr:`orchestrator.redis_mode.RedisMode.store`."""
        return self.redis.store

    @property
    def registry(self) -> Registry:
        """Agents, incarnations and deaths in Redis. Raises as :attr:`store`."""
        return self.redis.registry

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the current mode."""
        return self.mode.dead_letters

    @property
    def monitors(self) -> Monitors:
        """The monitors of the current mode."""
        return self.mode.monitors

    @lazy_property
    def coordination(self) -> Coordination:
        """Leases and the like, which are where the mode says at each use."""
        from orchestrator.coordination.ballots.ballot import Ballots
        from orchestrator.coordination.barriers.barrier import Here
        from orchestrator.coordination.coordination import Coordination

        def owner(what: str) -> Owner:
            return self.mode.lease_owner(what)

        ballots = Ballots(self.app, self.directory, lambda: self.mode.ballots)
        barriers = Here(lambda: self.mode.barriers, owner, self.app, self.directory)
        return Coordination(lambda: self.mode.named_leases, owner, ballots, barriers, self._coordination_stats)

    def _coordination_stats(self) -> CoordinationStats:
        from orchestrator.coordination.stats import read_stats

        mode = self.mode
        return read_stats(
            mode.named_leases, mode.ballots, mode.call_counts, mode.distribution.counts, mode.hierarchies.names
        )

    @lazy_property
    def distributor(self) -> Distributor:
        """Gives items out to agents, which are where the mode says at each use."""
        from orchestrator.coordination.distribution.distributor import Distributor

        return Distributor(self.directory, lambda: self.mode.distribution)

    @lazy_property
    def hierarchies(self) -> Hierarchies:
        """Hierarchies of agents, which are where the mode says at each use."""
        from orchestrator.coordination.distribution.hierarchies import Hierarchies

        return Hierarchies(lambda: self.mode.hierarchies, self.sender, self.directory.queue_of)

    @lazy_property
    def workflows(self) -> Workflows:
        """Workflows, whose runs are where the mode says at each use."""
        from orchestrator.workflows.workflows import Workflows

        return Workflows(self.app, self.directory, self._runs, self.current_step)

    @lazy_property
    def timeouts(self) -> Timeouts:
        """The timeouts of messages; overridden ones are where the mode says at each use."""
        from orchestrator.timeouts.timeouts import Timeouts

        return Timeouts(self.app, self.directory, self.settings, lambda: self.mode, self._pools)

    def _pools(self, queue: str) -> set[str]:
        """The pools of the living workers that consume from a queue; none in eager mode."""
        if self.eager:
            return set()
        return {one.pool for one in self.registry.incarnations() if queue in one.queues}

    @lazy_property
    def schedules(self) -> Schedules:
        """Schedules, which are where the mode says at each use."""
        from orchestrator.schedules.schedules import Schedules

        return Schedules(self.app, lambda: self.mode.schedules)

    def _runs(self) -> RunsBackend:
        if not self.eager:
            # Refuses what this library does not supervise, as a send does.
            self.redis.backend.prepare_for_steps()
        return self.mode.runs

    def step_arguments(self, run: Mapping[str, Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a workflow's step with the results in them that they refer to.

        Raises:
            InvalidStepInput: a result has no such part.
            BrokerUnavailable: Redis is away.
        """
        if not run.get("refs"):
            return args, kwargs
        filled = self.mode.fill_step(dict(run), [args, kwargs])
        return filled[0], filled[1]

    def expand(self, run: Mapping[str, Any], steps: Expand) -> Any:
        """Write the steps that a handler has returned to the plan of its run; returns what its outcome records.

        Raises:
            InvalidExpansion: they cannot be steps of its run.
            BrokerUnavailable: Redis is away.
        """
        from orchestrator.workflows.compiler import compile_steps
        from orchestrator.workflows.expansion import new_steps

        new = new_steps(steps)
        if not new.workflow.steps and new.final is not None:
            return new.final
        return self.mode.runs.expand(partial(compile_steps, self.app, self.directory), new, run)

    def cancellation_of(self, delivery_id: str, supervision: Supervision | None) -> Cancellation:
        """Finds out whether a delivery that runs here was cancelled."""
        return Cancellation(lambda: self.mode.is_cancelled(delivery_id, supervision))

    def step_in_run(self, supervision: Supervision | None, cancellation: Callable[[], bool]) -> StepContext | None:
        """The step of a workflow that a message is; ``None`` if it is none."""
        if supervision is None or supervision.run is None:
            return None
        from orchestrator.workflows.step_results import step_context

        return step_context(supervision.run, self.mode.fill_step, lambda uid: self.mode.runs.numbers(uid), cancellation)

    def current_step(self) -> StepContext | None:
        """The step whose handler runs in this thread; see :meth:`Workflows.current_step`."""
        from orchestrator.worker.execution import supervision_of

        task = self.app.current_task
        if task is None:
            return None
        supervision = supervision_of(task.request)
        return self.step_in_run(supervision, self.cancellation_of(str(task.request.id), supervision))

    def redis_monitors(self) -> RedisMonitors:
        """The monitors in Redis, whatever the mode."""
        return self.redis.monitors

    def mailboxes(self) -> list[MailboxState]:
        """Every mailbox; see :meth:`orchestrator.app.Orchestrator.mailboxes`."""
        return self.mode.mailboxes()

    def new_conversation(self, agents: Iterable[str | type[Agent]], data: Mapping[str, Any] | None) -> Conversation:
        """A new conversation; see :meth:`orchestrator.app.Orchestrator.conversation`."""
        if isinstance(agents, str | bytes | type) or not isinstance(agents, Iterable):
            raise InvalidPolicy("agents", agents, "a list of agents' names or Agent classes")
        names = tuple(self._name_of(agent) for agent in agents)
        if len(names) > MOST_AGENTS:
            raise InvalidPolicy("agents", f"{len(names)} of them", f"at most {MOST_AGENTS}")
        for name in names:
            self.directory.queue_of(name)
        return Conversation(new_id(), names, check_data(data))

    @staticmethod
    def _name_of(agent: object) -> str:
        if isinstance(agent, type) and issubclass(agent, Agent):
            return agent.name
        if not isinstance(agent, str):
            raise InvalidPolicy("agents", agent, "a list of agents' names or Agent classes")
        return agent

    @property
    def breakers(self) -> Breakers:
        """The agents' circuit breakers, which are where the mode says at each use."""
        from orchestrator.agents.breakers import Breakers

        return Breakers(lambda: self.mode, self._known_agents)

    def _known_agents(self) -> set[str]:
        return {*self.directory.declared, *self.announced()}

    def delivery(self, delivery: str | Delivery) -> Delivery:
        """The delivery with that id; see :meth:`orchestrator.app.Orchestrator.delivery`."""
        backend = self.backend()
        if isinstance(delivery, Delivery):
            return delivery.attached(backend.outcome, backend.tracker)
        return look_up(delivery, backend.outcome, backend.tracker, self._letter_record)

    def _letter_record(self, delivery_id: str) -> Mapping[str, Any] | None:
        letter = self.dead_letters.of_delivery(delivery_id)
        return None if letter is None else letter.record()

    def _death_hooks(self) -> tuple[DeathHook, ...]:
        """What the death of an incarnation entails, in this order. Connects when a sweep has found one."""
        return (
            lambda incarnation, reason: self.redis.named_leases.on_death(incarnation, reason),
            lambda incarnation, reason: self.redis.barriers.on_death(incarnation, reason),
            self._retire_schedules,
            self._end_waits,
            lambda incarnation, reason: self.redis.monitors.on_death(incarnation, reason),
        )

    def _end_waits(self, incarnation: str, _reason: str) -> bool:
        self.store.run(*commands.end_waits(self.store.keys, incarnation))
        return True

    def _retire_schedules(self, incarnation: str, _reason: str) -> bool:
        self.redis.scheduling.schedules.retire_owner(incarnation)
        return True

    def _run_due(self) -> None:
        self.redis.timers.run()
        self.redis.runs.work_off()

    # -- the monitor manager

    def maintain_runs(self) -> int:
        """Repair runs that would wait for ever, and take expired ones off the lists. The monitor manager calls this.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.redis.maintain_runs()

    def sweep(self) -> SweepResult:
        """Look for dead workers once, and requeue their messages. The monitor manager calls this.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        return self.redis.sweep()

    def maintain_dead_letters(self) -> MaintenanceResult:
        """Replay, park, expire and trim dead letters, as the settings say. The monitor manager calls this.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        from orchestrator.maintenance.dead_letter_retention import retention_policy_of
        from orchestrator.maintenance.dead_letters import run_maintenance

        return run_maintenance(self.dead_letters, retention_policy_of(self.settings))

    def run_housekeeping(self) -> list[str]:
        """Do one round of the monitor manager's work: a sweep, then the chores that are due. Returns the chores' names.

        A worker that consumes ``monitor-manager`` calls this whenever beat asks for it. Not for two threads at once.

        Raises:
            BrokerUnavailable, redis.exceptions.RedisError: Redis is away.
        """
        if self._manager is None:
            from orchestrator.maintenance.manager import Manager

            self._manager = Manager(self)
        return self._manager.run()
