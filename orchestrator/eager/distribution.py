"""Distributions in eager mode: every agent lives, has one slot and an empty mailbox, and handles its items inline."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.coordination.distribution.backend import AgentState, OutgoingItem
from orchestrator.core.outcome import Outcome
from orchestrator.eager.backend import EagerBackend
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.delivery import Awaiter
from orchestrator.sending.outgoing_message import OutgoingMessage, queue_name


class EagerDistribution:
    """See :class:`orchestrator.coordination.distribution.backend.DistributionBackend`."""

    def __init__(self, backend: EagerBackend, agents: Callable[[], Iterable[str]]) -> None:
        self._backend = backend
        self._agents = agents
        self._counts: Counter[str] = Counter()

    @property
    def awaiter(self) -> Awaiter:
        """Looks an outcome up."""
        return self._backend.outcome

    @property
    def tracker(self) -> EagerBackend:
        """Looks up deliveries."""
        return self._backend

    def prepare(self, message: OutgoingMessage) -> None:
        """Does nothing: no mailbox has to be declared here."""

    def states(self, mailboxes: Mapping[str, str]) -> dict[str, AgentState]:
        """How agents stand: only an open breaker refuses items."""
        rooms = {agent: self._backend.room_behind_breaker(agent) for agent in mailboxes}
        return {
            agent: AgentState(1, room=room, refusal=None if room is None else Refusal.OPEN)
            for agent, room in rooms.items()
        }

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """This host, for each agent."""
        return {agent: (socket.gethostname(),) for agent in self._agents()}

    def accept(self, id: str, items: Sequence[OutgoingItem]) -> Mapping[str, Refusal]:
        """Run all items, if the breakers admit all."""
        refused: dict[str, Refusal] = {}
        for like in {queue_name(item.like): item.like for item in items}.values():
            if self._backend.room_behind_breaker(like.supervision.agent) == 0:
                refused[queue_name(like)] = Refusal.OPEN
        if not refused:
            self._counts.update(distributions=1, items=len(items))
            self._backend.run_accepted([item.message() for item in items])
        return refused

    def outcomes(self, ids: Sequence[str], timeout_s: float) -> dict[str, Outcome]:
        """The outcomes that there are; none comes later."""
        found = {id: self._backend.outcome(id, 0) for id in ids}
        return {id: outcome for id, outcome in found.items() if outcome is not None}

    def counts(self) -> Mapping[str, int]:
        """Counters of this process."""
        return dict(self._counts)
