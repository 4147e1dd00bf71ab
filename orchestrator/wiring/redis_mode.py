"""An app whose messages are in Redis: its backend, stores and registry, each made when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.changed_fields import checked_fields
from orchestrator.agents.directory import Directory
from orchestrator.agents.task_arguments import TaskArguments
from orchestrator.core.checks.broker_url import quoted
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import InvalidSettings
from orchestrator.core.forks import lazy_property
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.settings import Settings
from orchestrator.health.health_reporter import HEALTH_REPORTER
from orchestrator.registry.registry import (
    COUNTS_VOTES,
    RELEASES_STEPS,
    AgentEntry,
    OutdatedIncarnation,
    Registry,
)
from orchestrator.sending.redis_backend import RedisBackend
from orchestrator.timeouts.overrides import RedisOverrides
from orchestrator.timeouts.run_times import RedisRunTimes
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.liveness.sweep import Sweeper, SweepResult
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store, open_store
from orchestrator.worker.configuration import Configuration

if TYPE_CHECKING:
    from orchestrator.agents.redis_breakers import RedisBreakers
    from orchestrator.agents.spec import AgentSpec
    from orchestrator.coordination.ballots.redis_ballots import RedisBallots
    from orchestrator.coordination.barriers.redis_barriers import RedisBarriers
    from orchestrator.coordination.distribution.hierarchies import RedisHierarchies
    from orchestrator.coordination.distribution.redis_distribution import RedisDistribution
    from orchestrator.coordination.redis_named_leases import RedisNamedLeases
    from orchestrator.deadletters.log import DeadLetters
    from orchestrator.maintenance.due_timers import DueTimers
    from orchestrator.monitors.redis_monitors import RedisMonitors
    from orchestrator.schedules.firing.scheduling import Scheduling
    from orchestrator.schedules.redis.redis_schedules import RedisSchedules
    from orchestrator.sending.redis_statistics import RedisStatistics
    from orchestrator.worker.examine_redis import Examination
    from orchestrator.worker.execution.owner import Owner
    from orchestrator.workflows.redis.run_repair import RunRepair
    from orchestrator.workflows.redis.runs import RedisRuns
    from orchestrator.workflows.steps.arguments import StepArguments


#: Settings that name the broker; the last is the first one's old name.
_URLS = ("broker_url", "broker_write_url", "BROKER_URL")


def _shown(urls: Any) -> str:
    return ", ".join(map(quoted, [urls] if isinstance(urls, str) else urls or ()))


class RedisMode:
    """The parts of one app that are in Redis."""

    def __init__(self, app: Celery, settings: Settings, directory: Directory, configuration: Configuration) -> None:
        self._app = app
        self._settings = settings
        self._directory = directory
        self._configuration = configuration
        #: The broker's URL when it was first used, and what the settings had said then.
        self._broker: tuple[Any, list[Any]] | None = None

    def refuse_another_broker(self) -> None:
        """Refuse a broker's URL that was changed after its first use: some connections would go to either.

        Raises:
            InvalidSettings: names both, without passwords.
        """
        if self._broker is None or (said := self._said()) == self._broker[1]:
            return
        old, new = self._broker[0], self._app.conf.broker_write_url
        if new != old:
            allowed = "before the first use of the broker; or another app, with an Orchestrator of its own"
            raise InvalidSettings([f"broker_url was changed from {_shown(old)} to {_shown(new)}; allowed: {allowed}"])
        self._broker = old, said

    def _record_broker(self) -> None:
        self._broker = self._broker or (self._app.conf.broker_write_url, self._said())

    def _said(self) -> list[Any]:
        # What is assigned while a program runs. To ask for the setting itself takes 50 µs, and each send comes by here.
        changes = self._app.conf.changes
        return [changes.get(name) for name in _URLS]

    @lazy_property
    def store(self) -> Store:
        """The Redis behind the app's broker URL.

        Raises:
            InvalidSettings: the broker's URL cannot be used.
            NotSupervised: the broker is not one that this library supervises.
            BrokerUnavailable: Redis is away.
        """
        store = self._open_store()
        if not HEALTH_REPORTER.is_worker():
            from orchestrator.worker.examine_redis import warn_sender

            warn_sender(store, self._settings.eviction)
        return store

    def _open_store(self) -> Store:
        store = open_store(self._app.connection_for_write())
        self._record_broker()
        return store

    @lazy_property
    def registry(self) -> Registry:
        """Agents, incarnations and deaths. Raises as :attr:`store`."""
        return Registry(self.store)

    @lazy_property
    def backend(self) -> RedisBackend:
        """The backend of sends.

        Raises:
            InvalidSettings: the app's configuration cannot work.
        """
        from orchestrator.worker.bootsteps.validate_timeouts import refuse_app

        refuse_app(self._app, self._configuration)
        self._record_broker()
        return RedisBackend(
            self._app, lambda: self.store, lambda: self.registry, self._settings.redact, self._directory.flow
        )

    @lazy_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters. Raises as :attr:`store`."""
        from orchestrator.deadletters.log import DeadLetters
        from orchestrator.deadletters.redis.store import RedisDeadLetterStore

        hidden = self._settings.redact
        checked = partial(checked_fields, self._directory.declared, hidden)
        return DeadLetters(RedisDeadLetterStore(self.store), hidden, checked, TaskArguments(self._app))

    @lazy_property
    def monitors(self) -> RedisMonitors:
        """The monitors; connects when it is used."""
        from orchestrator.monitors.redis_monitors import RedisMonitors

        return RedisMonitors(self._app, lambda: self.store, lambda: dict(self._directory.declared), self._settings)

    @lazy_property
    def named_leases(self) -> RedisNamedLeases:
        """Leases, elections, semaphores and pools; connects when it is used."""
        from orchestrator.coordination.redis_named_leases import RedisNamedLeases

        return RedisNamedLeases(lambda: self.store)

    @lazy_property
    def distribution(self) -> RedisDistribution:
        """Items given out to agents; connects when it is used."""
        from orchestrator.coordination.distribution.redis_distribution import RedisDistribution

        return RedisDistribution(
            self._app, lambda: self.store, lambda: self.backend, lambda: self.registry, self._settings.redact
        )

    @lazy_property
    def hierarchies(self) -> RedisHierarchies:
        """Hierarchies of agents; connects when it is used."""
        from orchestrator.coordination.distribution.hierarchies import RedisHierarchies

        return RedisHierarchies(lambda: self.store)

    @lazy_property
    def ballots(self) -> RedisBallots:
        """Ballots; connects when it is used."""
        from orchestrator.coordination.ballots.redis_ballots import RedisBallots

        hidden = self._settings.redact
        outdated = partial(self._outdated, COUNTS_VOTES)
        return RedisBallots(self._app, lambda: self.backend, lambda: self.store, hidden, outdated)

    def _outdated(self, what: str) -> list[OutdatedIncarnation]:
        return self.registry.outdated(what)

    @lazy_property
    def barriers(self) -> RedisBarriers:
        """Barriers; connects when it is used."""
        from orchestrator.coordination.barriers.redis_barriers import RedisBarriers

        return RedisBarriers(
            self._app,
            lambda: self.store,
            self._settings.redact,
            lambda message: self.backend.prepare(message),
            lambda tokens, longest_s: self.named_leases.sleep(tokens, longest_s),
        )

    def lease_owner(self, what: str) -> Owner:
        """The owner of a lease, or of ``what`` else is acquired here.

        Raises:
            NoOwner: no session is open and no worker runs a message here.
        """
        from orchestrator.worker.execution.owner import attempt_here

        return attempt_here(what)

    @lazy_property
    def runs(self) -> RedisRuns:
        """The runs of workflows; connects when it is used."""
        from orchestrator.workflows.redis.runs import RedisRuns

        settings = self._settings
        return RedisRuns.connect(
            self._app,
            lambda: self.store,
            self._directory,
            settings.redact,
            settings.workflow_keep_s,
            partial(self._outdated, RELEASES_STEPS),
            result_limit_bytes=settings.result_limit_bytes,
        )

    @lazy_property
    def timers(self) -> DueTimers:
        """The functions to call when a timer is due, by its kind; connects on first use."""
        from orchestrator.maintenance.due_timers import DueTimers
        from orchestrator.wiring.timer_functions import timer_functions

        return DueTimers(lambda: self.store, timer_functions(self))

    @lazy_property
    def breakers(self) -> RedisBreakers:
        """The agents' circuit breakers; connects when it is used."""
        from orchestrator.agents.redis_breakers import RedisBreakers

        return RedisBreakers(lambda: self.store, self._directory)

    @lazy_property
    def statistics(self) -> RedisStatistics:
        """The counts of mailboxes; connects when it is used."""
        from orchestrator.sending.redis_statistics import RedisStatistics

        return RedisStatistics(lambda: self.store, lambda: self.registry)

    @property
    def overrides(self) -> RedisOverrides:
        """The overridden timeouts. Raises as :attr:`store`."""
        return RedisOverrides(self.store)

    @property
    def run_times(self) -> RedisRunTimes:
        """The run times of attempts. Raises as :attr:`store`."""
        return RedisRunTimes(self.store)

    @lazy_property
    def scheduling(self) -> Scheduling:
        """The schedules; connects when it is used."""
        from orchestrator.schedules.firing.scheduling import Scheduling

        return Scheduling(self._app, lambda: self.store, self._directory, self._settings)

    @lazy_property
    def schedules(self) -> RedisSchedules:
        """Schedules as users act on them; connects when it is used."""
        # Refuses what this library does not supervise, as a send does.
        self.backend.prepare_for_steps()
        return self.scheduling.schedules

    @lazy_property
    def _repair(self) -> RunRepair:
        from orchestrator.workflows.redis.run_repair import RunRepair

        return RunRepair(self.runs.reads, lambda: self.store)

    def maintain_runs(self) -> int:
        """Repair runs that would wait for ever, and take expired ones off the lists; returns how many were repaired.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self.runs.upkeep.forget_expired()
        return self._repair.run()

    def is_cancelled(self, delivery_id: str, _supervision: Supervision | None) -> bool:
        """Whether a delivery, or its run, was cancelled while a worker has it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.backend.tracker.is_cancelled(delivery_id)

    def fill_step(self, run: Mapping[str, Any], value: Any) -> Any:
        """A step's arguments with the results in them; see :class:`StepArguments`."""
        return self._step_arguments.fill(run, value)

    @lazy_property
    def _step_arguments(self) -> StepArguments:
        from orchestrator.workflows.steps.arguments import StepArguments

        return StepArguments(self.store)

    @lazy_property
    def examination(self) -> Examination:
        """Checks, before a worker starts, whether this Redis is fit for it."""
        from orchestrator.worker.examine_redis import Examination

        return Examination(self._open_store, self._settings.eviction)

    @lazy_property
    def _sweeper(self) -> Sweeper:
        return self.store.sweeper()

    def sweep(self) -> SweepResult:
        """Look for dead workers once, and requeue their messages.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        return self._sweeper.sweep(HOUSEKEEPING_QUEUE)

    def announce(self, entries: Iterable[AgentEntry]) -> None:
        """Enter agents that this process hosts in the registry, and their flow control in Redis.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        from orchestrator.workflows.steps.cancelled_steps import write_texts

        entries = list(entries)
        self.registry.announce(entries)
        write_texts(self.store, self._directory, entries)
        for entry in entries:
            flow, spec = self._directory.flow(entry.name), self._directory.declared.get(entry.name)
            election = "" if spec is None else spec.election
            limit = None if spec is None else spec.concurrency
            declare_flow(self.store, entry.queue, flow, serves=True, election=election, concurrency=limit)

    def declare_singleton(self, spec: AgentSpec) -> list[str]:
        """Declare a singleton again; returns the living workers that host its agent without declaring it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        call = commands.declare_singleton(self.store.keys, spec.queue, spec.election)
        return [raw.decode() for raw in self.store.run(*call)]
