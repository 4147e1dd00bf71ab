"""Dead letters by fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.deadletters.criteria import Criteria
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.deadletters.search import LetterSearch
from orchestrator.deadletters.store import LetterReader

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Group:
    """Letters with the same failure: one fingerprint."""

    fingerprint: str
    count: int
    #: When the oldest and the newest letter of those in the log became letters, in ms since 1970.
    first_ms: int
    last_ms: int
    #: Arrivals in each of the last 24 hours, oldest first, removed letters included.
    arrivals: tuple[int, ...]
    #: The newest letter.
    example: DeadLetter

    @property
    def sparkline(self) -> str:
        """The arrivals as a line of block characters."""
        most = max(self.arrivals) or 1
        return "".join("▁▂▃▄▅▆▇█"[round(count / most * 7)] if count else " " for count in self.arrivals)


def groups_of(
    store: LetterReader, criteria: Criteria, hidden: tuple[str, ...], fixed: tuple[str, str] | None
) -> Iterator[Group]:
    """The groups of the letters that match, the most recent first. Lazy."""
    hour = store.now_ms() // _HOUR_MS
    # The index knows no ages and states, so a group that it returns may have no matching letter.
    for name in store.values("group", criteria.indexed):
        search = LetterSearch(store, replace(criteria, group=name), hidden, fixed)
        newest = search.first()
        if newest is None:
            continue
        oldest_id = next((ids[0] for ids in search.ids(limit=1) if ids), newest.id)
        arrivals = store.arrivals(name)
        yield Group(
            fingerprint=name,
            count=search.count(),
            first_ms=int(oldest_id.split("-")[0]),
            last_ms=newest.dead_lettered_ms,
            arrivals=tuple(arrivals.get(hour - ago, 0) for ago in range(23, -1, -1)),
            example=newest,
        )
