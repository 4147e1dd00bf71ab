"""Circuit breakers in Redis, as :class:`orchestrator.agents.breakers.Breakers` acts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.agents.directory import Directory
from orchestrator.core.admission.breaker import BreakerStatus, Phase
from orchestrator.registry.mailboxes import read_some
from orchestrator.transport.admission.flow_control import close_breaker, declare_flow, isolate_breaker
from orchestrator.transport.redis.lost_answers import Callers, again_if_lost
from orchestrator.transport.store import Store


class RedisBreakers:
    """See :class:`orchestrator.agents.breakers.BreakerBackend`."""

    def __init__(self, store: Callable[[], Store], directory: Directory) -> None:
        self._store = store
        self._directory = directory
        self._callers = Callers()

    def close(self, agent: str) -> bool | None:
        """Close an agent's breaker."""
        store, queue = self._store(), self._declared_queue_of(agent)
        return self._callers.run(store.keys, lambda attempt: close_breaker(store, queue, attempt))

    def isolate(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker."""
        store, queue = self._store(), self._declared_queue_of(agent)
        return self._callers.run(store.keys, lambda attempt: isolate_breaker(store, queue, why, attempt))

    def statuses(self, agents: Iterable[str]) -> dict[str, BreakerStatus]:
        """The statuses of these agents' breakers."""
        queues = {agent: self._directory.queue_of(agent) for agent in agents}
        states = {state.queue: state for state in read_some(self._store(), sorted(set(queues.values())))}
        statuses = {}
        for agent, queue in queues.items():
            state = states[queue]
            phase = state.breaker
            if phase is None and self._directory.flow(agent).breaker is not None:
                phase = Phase.CLOSED
            if phase is not None:
                statuses[agent] = BreakerStatus(agent, phase, state.breaker_open_for_s, state.breaker_isolated)
        return statuses

    def _declared_queue_of(self, agent: str) -> str:
        """The mailbox of an agent. Before any worker or send of the agent, Redis does not know of its breaker."""
        queue = self._directory.queue_of(agent)
        flow = self._directory.flow(agent)
        if flow.breaker is not None:
            again_if_lost(lambda: declare_flow(self._store(), queue, flow, serves=False))
        return queue
