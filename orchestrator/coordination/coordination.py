"""`orchestrator.coordination`: leases, elections, semaphores, pools, barriers and ballots of one app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from orchestrator.agents.agent import Agent
from orchestrator.agents.singleton import singleton_election
from orchestrator.coordination.ballots.backend import BallotState
from orchestrator.coordination.ballots.ballot import Ballot, Ballots
from orchestrator.coordination.barriers.backend import BarrierState
from orchestrator.coordination.barriers.barrier import Barrier, BarrierContext, checked_policy
from orchestrator.coordination.checks import (
    checked_limit_ms,
    checked_name,
    checked_permits,
    checked_resources,
    checked_wait_s,
)
from orchestrator.coordination.election import Election
from orchestrator.coordination.lease import Lease
from orchestrator.coordination.named_leases import NamedLeases, NameState, Wanted
from orchestrator.coordination.pools import Pool, Semaphore
from orchestrator.coordination.stats import CoordinationStats
from orchestrator.core.checks.choices import check_bool
from orchestrator.core.checks.numbers import check_whole_number
from orchestrator.core.coordination.ballot_rules import Rule
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.worker.execution.owner import Owner


@named_arguments
class Coordination:
    """Makes leases and the like, and lists them. Who holds what is in Redis, or in eager mode in this process."""

    def __init__(
        self,
        leases: Callable[[], NamedLeases],
        owner: Callable[[str], Owner],
        ballots: Ballots,
        barriers: BarrierContext,
        stats: Callable[[], CoordinationStats],
    ) -> None:
        self._leases = leases
        self._owner = owner
        self._ballots = ballots
        self._barriers = barriers
        self._stats = stats

    def lease(self, name: str, *, wait_s: float = 0.0, limit_s: float | None = None, reentrant: bool = False) -> Lease:
        """See :meth:`orchestrator.app.Orchestrator.lease`."""
        checked, waits_s, limit_ms = checked_name(name), checked_wait_s(wait_s), checked_limit_ms(limit_s)
        check_bool("reentrant", reentrant)

        def ask() -> tuple[NamedLeases, Wanted]:
            return self._leases(), Wanted(Kind.LEASE, checked, self._owner("lease"), waits_s, limit_ms, reentrant)

        return Lease(ask)

    def election(self, name: str | type[Agent]) -> Election:
        """See :meth:`orchestrator.app.Orchestrator.election`."""
        if isinstance(name, type) and issubclass(name, Agent):
            if not name.singleton:
                raise InvalidPolicy("agent", name.name, "an agent with singleton = True, or the name of an election")
            name = singleton_election(name.name)
        return Election(self._leases(), self._owner, checked_name(name))

    def semaphore(self, name: str, permits: int) -> Semaphore:
        """See :meth:`orchestrator.app.Orchestrator.semaphore`."""
        return Semaphore(self._leases(), self._owner, checked_name(name), checked_permits(permits))

    def pool(self, name: str, resources: Iterable[str]) -> Pool:
        """See :meth:`orchestrator.app.Orchestrator.pool`."""
        return Pool(self._leases(), self._owner, checked_name(name), checked_resources(resources))

    def propose(
        self,
        message: Message,
        voters: Iterable[str | type[Agent]],
        rule: Rule,
        *,
        timeout_s: float,
        silent: str,
        id: str | None,
    ) -> Ballot:
        """See :meth:`orchestrator.app.Orchestrator.propose`."""
        return self._ballots.propose(message, voters, rule, timeout_s, silent, id)

    def barrier(self, name: str, parties: object, *, timeout_s: float = 60.0, on_death: str = "break") -> Barrier:
        """See :meth:`orchestrator.app.Orchestrator.barrier`."""
        return Barrier(self._barriers, checked_name(name), checked_policy(parties, timeout_s, on_death))

    # -- reading

    def ballot(self, id: str) -> Ballot:
        """The ballot with that id.

        Raises:
            UnknownBallot: there is none, or it is not kept any more: a week after its decision.
            BrokerUnavailable: Redis is away.
        """
        return self._ballots.find(id)

    def ballots(self, limit: int = 1000) -> Sequence[BallotState]:
        """The ballots that are kept, the one that was proposed last first. Raises as :meth:`leases`."""
        return self._ballots.list(_checked_limit(limit))

    def stats(self) -> CoordinationStats:
        """Counts of calls, retries, fallbacks and distributed items; what is held, and waited for, under names.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._stats()

    def leases(self, limit: int = 1000) -> Sequence[NameState]:
        """The leases of the last week, the one that was used last first.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._leases().list(Kind.LEASE, _checked_limit(limit))

    def semaphores(self, limit: int = 1000) -> Sequence[NameState]:
        """The semaphores of the last week. Raises as :meth:`leases`."""
        return self._leases().list(Kind.SEMAPHORE, _checked_limit(limit))

    def pools(self, limit: int = 1000) -> Sequence[NameState]:
        """The pools of the last week. Raises as :meth:`leases`."""
        return self._leases().list(Kind.POOL, _checked_limit(limit))

    def elections(self, limit: int = 1000) -> Sequence[tuple[NameState, Term | None]]:
        """The elections of the last week, each with its last term. Raises as :meth:`leases`."""
        leases = self._leases()
        return [(state, leases.last_term(state.name)) for state in leases.list(Kind.ELECTION, _checked_limit(limit))]

    def barriers(self, limit: int = 1000) -> Sequence[BarrierState]:
        """The barriers of the last week, the one that was used last first. Raises as :meth:`leases`."""
        return self._barriers.barriers().list(_checked_limit(limit))


def _checked_limit(limit: object) -> int:
    return check_whole_number("limit", limit, 1, 100_000)
