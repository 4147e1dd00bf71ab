"""The periodic search for leaked monitors: one warning and one event for each kind and tag."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.core.log import get_logger
from orchestrator.monitors.leak import Leak
from orchestrator.telemetry import emit, events

if TYPE_CHECKING:
    from orchestrator.monitors.redis_monitors import RedisMonitors
    from orchestrator.monitors.search import LeakSearch

logger = get_logger(__name__)

#: Seconds that one run searches; a million monitors take several runs. The same worker sweeps, which is more urgent.
_SLICE_S = 0.4

#: Refs named in a warning.
_NAMED = 3

#: Groups that one check warns about; with order numbers as tags there are as many groups as monitors.
_REPORTED = 20


class LeakCheck:
    """Continues one search at each run, and reports when the search is complete."""

    def __init__(self, monitors: Callable[[], RedisMonitors]) -> None:
        self._monitors = monitors
        self._search: LeakSearch | None = None

    def run(self) -> int:
        """Search for a while. Returns how many leaks were reported.

        Raises:
            BrokerUnavailable: Redis cannot be reached; the next run begins a new search.
        """
        monitors = self._monitors()
        search, self._search = self._search or monitors.search(), None
        if not search.go_on(_SLICE_S):
            self._search = search
            return 0
        leaks = search.leaks()
        monitors.save_leak_count(len(leaks))
        report(leaks)
        return len(leaks)


@dataclass(slots=True)
class _Group:
    """Leaks of one kind and tag."""

    kind: str
    tag: str
    oldest: Leak
    count: int = 0
    named: list[int] = field(default_factory=list)

    def add(self, leak: Leak) -> None:
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(leak.ref)
        if leak.age_s > self.oldest.age_s:
            self.oldest = leak


def report(leaks: Iterable[Leak]) -> None:
    """Log a warning for each of the largest groups of leaks, and one with the number of the others."""
    groups: dict[tuple[str, str], _Group] = {}
    for leak in leaks:
        key = leak.kind.value, repr(leak.tag)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(*key, oldest=leak)
        group.add(leak)
    largest = heapq.nsmallest(_REPORTED, groups.values(), key=lambda group: (-group.count, group.kind, group.tag))
    for group in largest:
        oldest = group.oldest
        refs = ", ".join(map(str, group.named)) + (", …" if group.count > _NAMED else "")
        where = f"; created at {oldest.origin.splitlines()[0]}" if oldest.origin else ""
        logger.warning(
            "%d leaked monitors, tag %s: %s (%s); the oldest is %.0f s old%s; to repair it: %s",
            *(group.count, group.tag, group.kind, refs, oldest.age_s, where, oldest.repair),
        )
        emit(events.LEAKED, {"count": group.count}, kind=group.kind, tag=group.tag, oldest_s=round(oldest.age_s))
    others = len(groups) - len(largest)
    if others:
        count = sum(group.count for group in groups.values()) - sum(group.count for group in largest)
        oldest_s = max(group.oldest.age_s for group in groups.values())
        logger.warning("%d more leaked monitors, of %d other kinds and tags; `monitors leaks` lists all", count, others)
        emit(events.LEAKED, {"count": count}, kind="", tag="", oldest_s=round(oldest_s))
