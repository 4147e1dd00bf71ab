"""An app in eager mode: its backend, dead letters and monitors, all in the memory of this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.check_fields import checked_fields
from orchestrator.agents.directory import Directory
from orchestrator.agents.task_arguments import TaskArguments
from orchestrator.coordination.ballots.in_memory_ballots import InMemoryBallots
from orchestrator.coordination.barriers.in_memory_barriers import InMemoryBarriers
from orchestrator.coordination.distribution.hierarchies import InMemoryHierarchies
from orchestrator.coordination.in_memory_named_leases import InMemoryNamedLeases, LivingOwners
from orchestrator.core.breaker import BreakerStatus
from orchestrator.core.forks import lazy_property
from orchestrator.core.run_state import RunState
from orchestrator.core.settings import Settings
from orchestrator.core.supervision import Supervision
from orchestrator.deadletters.log import DeadLetters
from orchestrator.eager.backend import EagerBackend
from orchestrator.eager.distribution import EagerDistribution
from orchestrator.eager.in_memory_runs import InMemoryRuns
from orchestrator.eager.singletons import EagerSingletons
from orchestrator.monitors.in_memory import InMemoryMonitors
from orchestrator.sending.call_counts import CallCounts
from orchestrator.sending.ledger import LedgerRow, housekeeping_of
from orchestrator.timeouts.overrides import InMemoryOverrides
from orchestrator.timeouts.run_times import InMemoryRunTimes

if TYPE_CHECKING:
    from orchestrator.eager.in_memory_schedules import InMemorySchedules
    from orchestrator.registry.mailboxes import MailboxState
    from orchestrator.worker.owner import Owner


class EagerMode:
    """The in-memory parts of one app; :class:`orchestrator.redis_mode.RedisMode` has the same in Redis."""

    def __init__(self, app: Celery, settings: Settings, directory: Directory) -> None:
        self._app = app
        self._settings = settings
        self._directory = directory
        self.overrides = InMemoryOverrides()
        self.run_times = InMemoryRunTimes()
        self.backend = EagerBackend(app, directory.flow)
        singletons = EagerSingletons(
            directory,
            lambda: self.named_leases,
            lambda agent: self.monitors.incarnation(agent),
            self.backend.send,
        )
        self.backend.on_start(singletons.lead)

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
        return InMemoryBallots(self.backend, self.backend.deliver)

    @lazy_property
    def barriers(self) -> InMemoryBarriers:
        """Barriers."""
        barriers = InMemoryBarriers(LivingOwners(self.monitors.living), self.backend.send)
        self.monitors.on_end.append(barriers.owner_died)
        return barriers

    def lease_owner(self, what: str) -> Owner:
        """Who owns ``what`` is acquired here.

        Raises:
            NoOwner: no session is open and no handler runs here.
        """
        return self.monitors.attempt_here(what)

    @lazy_property
    def runs(self) -> InMemoryRuns:
        """The runs of workflows."""
        return InMemoryRuns(self.backend, self._directory, self._settings.result_limit_bytes)

    @lazy_property
    def schedules(self) -> InMemorySchedules:
        """The schedules."""
        from orchestrator.eager.in_memory_schedules import InMemorySchedules

        return InMemorySchedules(self._app, self._directory, self._settings, self.backend)

    def is_cancelled(self, _delivery_id: str, supervision: Supervision | None) -> bool:
        """Whether a step's run was cancelled; other deliveries cannot be cancelled while they run."""
        run = None if supervision is None else supervision.run
        status = None if run is None else self.runs.status(str(run["uid"]))
        return status is not None and status.state is RunState.CANCELLED

    def fill_step(self, run: Mapping[str, Any], value: Any) -> Any:
        """A step's arguments with the results in them; see :meth:`InMemoryRuns.fill`."""
        return self.runs.fill(run, value)

    def ledger(self) -> list[LedgerRow]:
        """The ledger of every mailbox."""
        return self.backend.ledger()

    def call_counts(self) -> list[CallCounts]:
        """What became of the asks of each agent."""
        return self.backend.call_counts()

    def housekeeping_ledger(self) -> LedgerRow:
        """An empty row: eager mode has no monitor manager."""
        return housekeeping_of([])

    def dataset(self) -> None:
        """``None``: nothing counts in Redis."""

    def mailboxes(self) -> list[MailboxState]:
        """An empty list: nothing waits in eager mode."""
        return []

    def close_breaker(self, agent: str) -> bool | None:
        """Close an agent's breaker; whether it was open or half-open, ``None`` if it has none.

        Raises:
            UnknownAgent: no such agent was declared here.
        """
        self._directory.queue_of(agent)
        return self.backend.close_breaker(agent)

    def isolate_breaker(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker; whether it was not isolated, ``None`` if it has none.

        Raises:
            UnknownAgent: no such agent was declared here.
        """
        self._directory.queue_of(agent)
        return self.backend.isolate_breaker(agent, why)

    def breaker_statuses(self, agents: Iterable[str]) -> dict[str, BreakerStatus]:
        """How the breakers of these agents stand; agents without a breaker are left out.

        Raises:
            UnknownAgent: no such agent was declared here.
        """
        statuses = {}
        for agent in agents:
            self._directory.queue_of(agent)
            status = self.backend.breaker_status(agent)
            if status is not None:
                statuses[agent] = status
        return statuses
