"""An app whose messages are in Redis: its backend, stores and registry, each made when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.check_fields import checked_fields
from orchestrator.agents.directory import Directory
from orchestrator.agents.task_arguments import TaskArguments
from orchestrator.core.breaker import BreakerStatus, Phase
from orchestrator.core.forks import lazy_property
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.settings import Settings
from orchestrator.core.supervision import Supervision
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
from orchestrator.transport.admission.flow_control import close_breaker, declare_flow, isolate_breaker
from orchestrator.transport.liveness.sweep import Sweeper, SweepResult
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store, open_store
from orchestrator.worker.configuration import Configuration

if TYPE_CHECKING:
    from orchestrator.coordination.ballots.redis_ballots import RedisBallots
    from orchestrator.coordination.barriers.redis_barriers import RedisBarriers
    from orchestrator.coordination.distribution.hierarchies import RedisHierarchies
    from orchestrator.coordination.distribution.redis_distribution import RedisDistribution
    from orchestrator.coordination.redis_named_leases import RedisNamedLeases
    from orchestrator.deadletters.log import DeadLetters
    from orchestrator.maintenance.due_timers import DueTimers
    from orchestrator.monitors.redis_monitors import RedisMonitors
    from orchestrator.registry.mailboxes import MailboxState
    from orchestrator.schedules.redis_schedules import RedisSchedules
    from orchestrator.schedules.scheduling import Scheduling
    from orchestrator.sending.call_counts import CallCounts
    from orchestrator.sending.ledger import LedgerRow
    from orchestrator.transport.redis.dataset import DatasetRecord
    from orchestrator.worker.examine_redis import Examination
    from orchestrator.worker.owner import Owner
    from orchestrator.workflows.redis_runs import RedisRuns
    from orchestrator.workflows.run_repair import RunRepair
    from orchestrator.workflows.step_arguments import StepArguments


#: Scripts of up to 200 messages by which one sweep lets deferred messages of one mailbox go.
_MOST_RELEASES = 50


class RedisMode:
    """What one app has in Redis."""

    def __init__(self, app: Celery, settings: Settings, directory: Directory, configuration: Configuration) -> None:
        self._app = app
        self._settings = settings
        self._directory = directory
        self._configuration = configuration

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
        return open_store(self._app.connection_for_write())

    @lazy_property
    def registry(self) -> Registry:
        """Agents, incarnations and deaths. Raises as :attr:`store`."""
        return Registry(self.store)

    @lazy_property
    def backend(self) -> RedisBackend:
        """Where sends go.

        Raises:
            InvalidSettings: the app's configuration cannot work.
        """
        from orchestrator.worker.validate_timeouts import refuse_app

        refuse_app(self._app, self._configuration)
        return RedisBackend(
            self._app, lambda: self.store, lambda: self.registry, self._settings.redact, self._directory.flow
        )

    @lazy_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters. Raises as :attr:`store`."""
        from orchestrator.deadletters.log import DeadLetters
        from orchestrator.deadletters.redis_store import RedisDeadLetterStore

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
        """Who owns ``what`` is acquired here.

        Raises:
            NoOwner: no session is open and no worker runs a message here.
        """
        from orchestrator.worker.owner import attempt_here

        return attempt_here(self._app, what)

    @lazy_property
    def runs(self) -> RedisRuns:
        """The runs of workflows; connects when it is used."""
        from orchestrator.workflows.redis_runs import RedisRuns

        settings = self._settings
        return RedisRuns(
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
        """What is done when a time has come, by the kind of its timer; connects when it is used."""
        from orchestrator.maintenance.due_timers import DueTimers

        return DueTimers(
            lambda: self.store,
            {
                "run": lambda what: self.runs.time_came(what),
                "ask": self._time_out,
                "deferred": self._release_deferred,
                "lanes": self._check_lanes,
                "items": lambda what: self.distribution.release(what),
                "ballot": lambda what: self.ballots.time_came(what),
                "barrier": lambda what: self.barriers.time_came(what),
                "barrier-rest": lambda what: self.barriers.rest_is_due(what),
            },
        )

    def _release_deferred(self, queue: str) -> None:
        """Let go of a mailbox' deferred messages; the script sets the timer anew if some are left."""
        for _ in range(_MOST_RELEASES):
            moved, left = self.store.run(*commands.release_deferred(self.store.keys, queue))
            if not moved or not left:
                return

    def _check_lanes(self, queue: str) -> None:
        """Find permits that nothing has any more, and lanes that could go on; the script sets the timer anew."""
        self.store.run(*commands.check_lanes(self.store.keys, queue))

    def _time_out(self, ask_id: str) -> None:
        self.store.run(*commands.end_ask(self.store.keys, ask_id, "time"))

    @property
    def overrides(self) -> RedisOverrides:
        """The overridden timeouts. Raises as :attr:`store`."""
        return RedisOverrides(self.store)

    @property
    def run_times(self) -> RedisRunTimes:
        """How long attempts took. Raises as :attr:`store`."""
        return RedisRunTimes(self.store)

    @lazy_property
    def scheduling(self) -> Scheduling:
        """The schedules; connects when it is used."""
        from orchestrator.schedules.scheduling import Scheduling

        return Scheduling(self._app, lambda: self.store, self._directory, self._settings)

    @lazy_property
    def schedules(self) -> RedisSchedules:
        """Schedules as users act on them; connects when it is used."""
        # Refuses what this library does not supervise, as a send does.
        self.backend.prepare_for_steps()
        return self.scheduling.schedules

    @lazy_property
    def _repair(self) -> RunRepair:
        from orchestrator.workflows.run_repair import RunRepair

        return RunRepair(self.runs, lambda: self.store)

    def maintain_runs(self) -> int:
        """Repair runs that would wait for ever, and take expired ones off the lists; returns how many were repaired.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self.runs.forget_expired()
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
        from orchestrator.workflows.step_arguments import StepArguments

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
        from orchestrator.workflows.cancelled_steps import write_texts

        entries = list(entries)
        self.registry.announce(entries)
        write_texts(self.store, self._directory, entries)
        for entry in entries:
            flow, spec = self._directory.flow(entry.name), self._directory.declared.get(entry.name)
            election = "" if spec is None else spec.election
            limit = None if spec is None else spec.concurrency
            declare_flow(self.store, entry.queue, flow, serves=True, election=election, concurrency=limit)

    def ledger(self) -> list[LedgerRow]:
        """The ledger of every mailbox but the monitor manager's. Raises as :attr:`store`."""
        from orchestrator.sending.ledger import mailboxes_of, read_ledger

        return mailboxes_of(read_ledger(self.store))

    def call_counts(self) -> list[CallCounts]:
        """What became of the asks of each mailbox. Raises as :attr:`store`."""
        from orchestrator.sending.call_counts import read_call_counts

        return read_call_counts(self.store)

    def housekeeping_ledger(self) -> LedgerRow:
        """The ledger of the monitor manager's mailbox. Raises as :attr:`store`."""
        from orchestrator.sending.ledger import housekeeping_of, read_ledger

        return housekeeping_of(read_ledger(self.store))

    def dataset(self) -> DatasetRecord | None:
        """When counting began, and what is known to be lost; ``None`` before any worker. Raises as :attr:`store`."""
        return self.store.dataset()

    def mailboxes(self) -> list[MailboxState]:
        """Every mailbox as it is now. Raises as :attr:`store`."""
        from orchestrator.registry.mailboxes import read_mailboxes

        return read_mailboxes(self.store, self.registry.incarnations())

    def close_breaker(self, agent: str) -> bool | None:
        """Close an agent's breaker; whether it was open or half-open, ``None`` if it has none.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            BrokerUnavailable: Redis is away.
        """
        return close_breaker(self.store, self._declared_queue_of(agent))

    def isolate_breaker(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker; whether it was not isolated, ``None`` if it has none.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            BrokerUnavailable: Redis is away.
        """
        return isolate_breaker(self.store, self._declared_queue_of(agent), why)

    def _declared_queue_of(self, agent: str) -> str:
        """The mailbox of an agent. Before any worker or send of the agent, Redis does not know of its breaker."""
        queue = self._directory.queue_of(agent)
        flow = self._directory.flow(agent)
        if flow.breaker is not None:
            declare_flow(self.store, queue, flow, serves=False)
        return queue

    def breaker_statuses(self, agents: Iterable[str]) -> dict[str, BreakerStatus]:
        """How the breakers of these agents stand; agents without a breaker are left out.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            BrokerUnavailable: Redis is away.
        """
        from orchestrator.registry.mailboxes import read_some

        queues = {agent: self._directory.queue_of(agent) for agent in agents}
        states = {state.queue: state for state in read_some(self.store, sorted(set(queues.values())))}
        statuses = {}
        for agent, queue in queues.items():
            state = states[queue]
            phase = state.breaker
            if phase is None and self._directory.flow(agent).breaker is not None:
                phase = Phase.CLOSED
            if phase is not None:
                statuses[agent] = BreakerStatus(agent, phase, state.breaker_open_for_s, state.breaker_isolated)
        return statuses
