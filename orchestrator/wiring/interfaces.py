"""The objects of an app that its users call: workflows, schedules, coordination and the like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator.agents.directory import Directory
from orchestrator.core.forks import lazy_property
from orchestrator.core.settings import Settings
from orchestrator.sending.delivery import Delivery
from orchestrator.sending.lookup import look_up
from orchestrator.sending.sender import Sender
from orchestrator.wiring.modes import Modes
from orchestrator.workflows.steps.running_steps import RunningSteps

if TYPE_CHECKING:
    from orchestrator.agents.breakers import Breakers
    from orchestrator.coordination.coordination import Coordination
    from orchestrator.coordination.distribution.distributor import Distributor
    from orchestrator.coordination.distribution.hierarchies import Hierarchies
    from orchestrator.coordination.stats import CoordinationStats
    from orchestrator.schedules.schedules import Schedules
    from orchestrator.timeouts.timeouts import Timeouts
    from orchestrator.worker.execution.owner import Owner
    from orchestrator.workflows.backend import RunsBackend
    from orchestrator.workflows.workflows import Workflows


@dataclass(frozen=True, eq=False, repr=False)
class Interfaces:
    """The objects that the users of one app call. Each is made at its first use, and works in the mode of each call."""

    _app: Celery
    _settings: Settings
    _directory: Directory
    _sender: Sender
    _modes: Modes
    _steps: RunningSteps

    def delivery(self, delivery: str | Delivery) -> Delivery:
        """The delivery with that id; see :meth:`orchestrator.app.Orchestrator.delivery`."""
        backend = self._modes.backend()
        if isinstance(delivery, Delivery):
            return delivery.attached(backend.outcome, backend.tracker)
        return look_up(delivery, backend.outcome, backend.tracker, self._letter_record)

    def _letter_record(self, delivery_id: str) -> Mapping[str, Any] | None:
        letter = self._modes.current.dead_letters.of_delivery(delivery_id)
        return None if letter is None else letter.record()

    @lazy_property
    def coordination(self) -> Coordination:
        """Leases, elections, semaphores, pools, barriers and ballots."""
        from orchestrator.coordination.ballots.ballot import Ballots
        from orchestrator.coordination.barriers.barrier import BarrierContext
        from orchestrator.coordination.coordination import Coordination

        modes = self._modes

        def owner(what: str) -> Owner:
            return modes.current.lease_owner(what)

        ballots = Ballots(self._app, self._directory, lambda: modes.current.ballots)
        barriers = BarrierContext(lambda: modes.current.barriers, owner, self._app, self._directory)
        return Coordination(lambda: modes.current.named_leases, owner, ballots, barriers, self._coordination_stats)

    def _coordination_stats(self) -> CoordinationStats:
        from orchestrator.coordination.stats import read_stats

        mode = self._modes.current
        return read_stats(
            mode.named_leases,
            mode.ballots,
            mode.statistics.call_counts,
            mode.distribution.counts,
            mode.hierarchies.names,
        )

    @lazy_property
    def distributor(self) -> Distributor:
        """Gives items out to agents."""
        from orchestrator.coordination.distribution.distributor import Distributor

        return Distributor(self._directory, lambda: self._modes.current.distribution)

    @lazy_property
    def hierarchies(self) -> Hierarchies:
        """Hierarchies of agents."""
        from orchestrator.coordination.distribution.hierarchies import Hierarchies

        return Hierarchies(lambda: self._modes.current.hierarchies, self._sender, self._directory.queue_of)

    @lazy_property
    def workflows(self) -> Workflows:
        """Workflows and their runs."""
        from orchestrator.workflows.workflows import Workflows

        return Workflows(self._app, self._directory, self._runs, self._steps.current)

    def _runs(self) -> RunsBackend:
        if not self._modes.is_eager:
            # Refuses what this library does not supervise, as a send does.
            self._modes.redis.backend.prepare_for_steps()
        return self._modes.current.runs

    @lazy_property
    def timeouts(self) -> Timeouts:
        """The timeouts of messages, and those that are overridden."""
        from orchestrator.timeouts.timeouts import Timeouts

        return Timeouts(self._app, self._directory, self._settings, lambda: self._modes.current, self._pools)

    def _pools(self, queue: str) -> set[str]:
        """The pools of the living workers that consume from a queue; none in eager mode."""
        if self._modes.is_eager:
            return set()
        return {one.pool for one in self._modes.redis.registry.incarnations() if queue in one.queues}

    @lazy_property
    def schedules(self) -> Schedules:
        """Schedules."""
        from orchestrator.schedules.schedules import Schedules

        return Schedules(self._app, lambda: self._modes.current.schedules)

    @lazy_property
    def breakers(self) -> Breakers:
        """The agents' circuit breakers."""
        from orchestrator.agents.breakers import Breakers

        return Breakers(
            lambda: self._modes.current.breakers, lambda: {*self._directory.declared, *self._modes.announced()}
        )
