"""An app in eager mode: its backend, dead letters and monitors, all in the memory of this process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.changed_fields import checked_fields
from orchestrator.agents.directory import Directory
from orchestrator.agents.task_arguments import TaskArguments
from orchestrator.coordination.ballots.in_memory_ballots import InMemoryBallots
from orchestrator.coordination.barriers.in_memory_barriers import InMemoryBarriers
from orchestrator.coordination.distribution.hierarchies import InMemoryHierarchies
from orchestrator.coordination.in_memory_named_leases import InMemoryNamedLeases, LivingOwners
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.forks import lazy_property
from orchestrator.core.settings import Settings
from orchestrator.core.workflows.run_state import RunState
from orchestrator.deadletters.log import DeadLetters
from orchestrator.eager.backend import EagerBackend
from orchestrator.eager.breakers import EagerBreakers
from orchestrator.eager.distribution import EagerDistribution
from orchestrator.eager.in_memory_runs import InMemoryRuns
from orchestrator.eager.singletons import EagerSingletons
from orchestrator.eager.statistics import EagerStatistics
from orchestrator.monitors.in_memory import InMemoryMonitors
from orchestrator.timeouts.overrides import InMemoryOverrides
from orchestrator.timeouts.run_times import InMemoryRunTimes
from orchestrator.workflows.backend import RunsBackend

if TYPE_CHECKING:
    from orchestrator.eager.in_memory_schedules import InMemorySchedules
    from orchestrator.worker.execution.owner import Owner


class EagerMode:
    """The in-memory parts of one app; :class:`orchestrator.wiring.redis_mode.RedisMode` has the same in Redis."""

    def __init__(self, app: Celery, settings: Settings, directory: Directory) -> None:
        self._app = app
        self._settings = settings
        self._directory = directory
        self.overrides = InMemoryOverrides()
        self.run_times = InMemoryRunTimes()
        self.backend = EagerBackend(app, directory.flow, lambda agent: self.monitors.is_dead(agent))
        singletons = EagerSingletons(
            directory,
            lambda: self.named_leases,
            lambda agent: self.monitors.incarnation(agent),
            self.backend.send,
        )
        self.statistics = EagerStatistics(self.backend.records, self.backend.asks)
        self.breakers = EagerBreakers(directory, self.backend.flow, self.backend.acceptance.deferred)
        self.backend.runner.on_start = singletons.lead

    @lazy_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters."""
        hidden = self._settings.redact
        checked = partial(checked_fields, self._directory.declared, hidden)
        return DeadLetters(self.backend.letters, hidden, checked, TaskArguments(self._app))

    @lazy_property
    def monitors(self) -> InMemoryMonitors:
        """The monitors."""
        return InMemoryMonitors(self._app, self.backend.send, lambda: dict(self._directory.declared))

    @lazy_property
    def named_leases(self) -> InMemoryNamedLeases:
        """Leases, elections, semaphores and pools."""
        leases = InMemoryNamedLeases(self.monitors.living)
        self.monitors.on_end.append(leases.owner_died)
        return leases

    @lazy_property
    def distribution(self) -> EagerDistribution:
        """Items given out to agents."""
        return EagerDistribution(self.backend, lambda: self._directory.declared)

    @lazy_property
    def hierarchies(self) -> InMemoryHierarchies:
        """Hierarchies of agents."""
        return InMemoryHierarchies()

    @lazy_property
    def ballots(self) -> InMemoryBallots:
        """Ballots."""
        return InMemoryBallots(self.backend, self.backend.runner.run)

    @lazy_property
    def barriers(self) -> InMemoryBarriers:
        """Barriers."""
        barriers = InMemoryBarriers(LivingOwners(self.monitors.living), self.backend.send)
        self.monitors.on_end.append(barriers.owner_died)
        return barriers

    def lease_owner(self, what: str) -> Owner:
        """The owner of a lease, or of ``what`` else is acquired here.

        Raises:
            NoOwner: no session is open and no handler runs here.
        """
        return self.monitors.attempt_here(what)

    @lazy_property
    def runs(self) -> RunsBackend:
        """The runs of workflows."""
        runs = self._in_memory_runs
        return RunsBackend(runs, runs, runs, runs, self._settings.result_limit_bytes)

    @lazy_property
    def _in_memory_runs(self) -> InMemoryRuns:
        return InMemoryRuns(self.backend, self._directory)

    @lazy_property
    def schedules(self) -> InMemorySchedules:
        """The schedules."""
        from orchestrator.eager.in_memory_schedules import InMemorySchedules

        return InMemorySchedules(self._app, self._directory, self._settings, self.backend)

    def is_cancelled(self, _delivery_id: str, supervision: Supervision | None) -> bool:
        """Whether a step's run was cancelled; other deliveries cannot be cancelled while they run."""
        run = None if supervision is None else supervision.run
        status = None if run is None else self.runs.reads.status(str(run["uid"]))
        return status is not None and status.state is RunState.CANCELLED

    def fill_step(self, run: Mapping[str, Any], value: Any) -> Any:
        """A step's arguments with the results in them; see :meth:`InMemoryRuns.fill`."""
        return self._in_memory_runs.fill(run, value)
