"""Totals of calls and of coordination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from orchestrator.coordination.ballots.backend import BallotsBackend
from orchestrator.coordination.named_leases import NamedLeases, NameState
from orchestrator.core.coordination.lease import Kind
from orchestrator.sending.calls.call_counts import CallCounts

#: Names of each kind that are looked at.
_MOST_NAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class NamesStats:
    """The names of one kind as they are now: those of the last week, 10,000 of them at most."""

    names: int
    #: Permits that are held, of each name 100 at most, and requests that wait.
    held: int
    waiting: int


@dataclass(frozen=True, slots=True)
class CoordinationStats:
    """Counts of requests and items since Redis' counters began, and of permits held and waited for now."""

    #: The sum over all mailboxes; :meth:`Orchestrator.call_counts` has each one's.
    calls: CallCounts
    leases: NamesStats
    elections: NamesStats
    semaphores: NamesStats
    pools: NamesStats
    #: Ballots that are kept, and those that are open; of the last 10,000.
    ballots: int
    open_ballots: int
    #: Distributions that were accepted, and their items.
    distributions: int
    items: int
    #: Hierarchies that are kept.
    hierarchies: int


def read_stats(
    leases: NamedLeases,
    ballots: BallotsBackend,
    calls: Callable[[], Iterable[CallCounts]],
    distributions: Callable[[], Mapping[str, int]],
    hierarchies: Callable[[], list[str]],
) -> CoordinationStats:
    """The numbers as they are now, each of its own moment.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    given, proposed = distributions(), ballots.list(_MOST_NAMES)
    names = {kind: _names(leases.list(kind, _MOST_NAMES)) for kind in Kind}
    return CoordinationStats(
        _sum(calls()),
        names[Kind.LEASE],
        names[Kind.ELECTION],
        names[Kind.SEMAPHORE],
        names[Kind.POOL],
        len(proposed),
        sum(one.state == "open" for one in proposed),
        given.get("distributions", 0),
        given.get("items", 0),
        len(hierarchies()),
    )


def _names(states: Iterable[NameState]) -> NamesStats:
    known = list(states)
    return NamesStats(len(known), sum(len(one.holders) for one in known), sum(one.waiting for one in known))


def _sum(counts: Iterable[CallCounts]) -> CallCounts:
    known = list(counts)
    summed = [field.name for field in fields(CallCounts) if field.name not in ("queue", "budget")]
    return CallCounts("", **{name: sum(getattr(one, name) for one in known) for name in summed})
