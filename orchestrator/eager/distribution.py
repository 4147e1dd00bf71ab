"""Distributions in eager mode: every living agent has one slot and an empty mailbox, and handles its items inline."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.coordination.distribution.backend import AcceptedBefore, AgentState, OnceOnly, OutgoingItem
from orchestrator.core.clock import now_ms
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.eager.backend import EagerBackend
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.delivery import Awaiter, Tracker
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name


class EagerDistribution:
    """See :class:`orchestrator.coordination.distribution.backend.DistributionBackend`."""

    def __init__(self, backend: EagerBackend, agents: Callable[[], Iterable[str]]) -> None:
        self._backend = backend
        self._agents = agents
        self._counts: Counter[str] = Counter()
        #: By idempotency key: what was accepted first, and until when that is remembered.
        self._accepted: dict[str, tuple[str, int]] = {}

    @property
    def awaiter(self) -> Awaiter:
        """Looks an outcome up."""
        return self._backend.outcome

    @property
    def tracker(self) -> Tracker:
        """Looks up deliveries."""
        return self._backend.tracker

    def prepare(self, message: OutgoingMessage) -> None:
        """Does nothing: no mailbox has to be declared here."""

    def states(self, mailboxes: Mapping[str, str]) -> dict[str, AgentState]:
        """The states of agents: one that a test has declared dead has no slot, and an open breaker refuses items."""
        rooms = {agent: self._backend.flow.room(agent) for agent in mailboxes}
        return {
            agent: AgentState(
                0 if self._backend.is_dead(agent) else 1, room=room, refusal=None if room is None else Refusal.OPEN
            )
            for agent, room in rooms.items()
        }

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """This host, for each agent."""
        return {agent: (socket.gethostname(),) for agent in self._agents()}

    def accepted(self, key: str) -> str | None:
        """What is recorded under an idempotency key that has not expired."""
        record, until_ms = self._accepted.get(key, (None, 0))
        return record if now_ms() < until_ms else None

    def accept(self, id: str, items: Sequence[OutgoingItem], once: OnceOnly | None = None) -> Mapping[str, Refusal]:
        """Run all items, if the breakers admit all."""
        if once is not None and (first := self.accepted(once.key)) is not None:
            raise AcceptedBefore(first)
        refused: dict[str, Refusal] = {}
        for like in {queue_name(item.like): item.like for item in items}.values():
            if self._backend.flow.room(like.supervision.agent) == 0:
                refused[queue_name(like)] = Refusal.OPEN
        if not refused:
            if once is not None:
                # Before any item runs: its handler may be one that distributes.
                self._accepted[once.key] = once.record, now_ms() + once.ttl_ms
            self._counts.update(distributions=1, items=len(items))
            self._backend.acceptance.run_accepted([item.message() for item in items])
        return refused

    def outcomes(self, ids: Sequence[str], timeout_s: float) -> dict[str, Outcome]:
        """The outcomes that there are; none comes later."""
        found = {id: self._backend.outcome(id, 0) for id in ids}
        return {id: outcome for id, outcome in found.items() if outcome is not None}

    def counts(self) -> Mapping[str, int]:
        """Counters of this process."""
        return dict(self._counts)
