"""Circuit breakers of eager mode, as :class:`orchestrator.agents.breakers.Breakers` acts on them."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.agents.directory import Directory
from orchestrator.core.admission.breaker import BreakerStatus
from orchestrator.eager.deferred_messages import DeferredMessages
from orchestrator.eager.flow_control import EagerFlowControl


class EagerBreakers:
    """See :class:`orchestrator.agents.breakers.BreakerBackend`."""

    def __init__(self, directory: Directory, flow: EagerFlowControl, deferred: DeferredMessages) -> None:
        self._directory = directory
        self._flow = flow
        self._deferred = deferred

    def close(self, agent: str) -> bool | None:
        """Close an agent's breaker, and let go of what it has deferred."""
        self._directory.queue_of(agent)
        was_open = self._flow.close(agent)
        self._deferred.let_go(agent)
        return was_open

    def isolate(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker."""
        self._directory.queue_of(agent)
        return self._flow.isolate(agent, why)

    def statuses(self, agents: Iterable[str]) -> dict[str, BreakerStatus]:
        """The statuses of these agents' breakers."""
        statuses = {}
        for agent in agents:
            self._directory.queue_of(agent)
            status = self._flow.status(agent)
            if status is not None:
                statuses[agent] = status
        return statuses
