"""The periodic search for leaked monitors: a warning, and an event, for each kind and tag."""

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

#: Of one run. A million monitors take several: whoever looks for leaks also sweeps, and that is more urgent.
_SLICE_S = 0.4

#: Refs named in a warning.
_NAMED = 3

#: Kinds and tags that one check warns of: whoever uses the numbers of orders as tags has as many tags as monitors.
_TOLD = 20


class LeakCheck:
    """Goes on with one search at each run, and reports when it is through."""

    def __init__(self, monitors: Callable[[], RedisMonitors]) -> None:
        self._monitors = monitors
        self._search: LeakSearch | None = None

    def run(self) -> int:
        """Look for a while. Returns how many leaks were reported.

        Raises:
            BrokerUnavailable: Redis is away; the next run begins anew.
        """
        monitors = self._monitors()
        search, self._search = self._search or monitors.search(), None
        if not search.go_on(_SLICE_S):
            self._search = search
            return 0
        leaks = search.leaks()
        monitors.note_leaked(len(leaks))
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
    """Warn of leaks, by tag and kind; the largest groups first, and of what is left only how much it is."""
    groups: dict[tuple[str, str], _Group] = {}
    for leak in leaks:
        key = leak.kind.value, repr(leak.tag)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(*key, oldest=leak)
        group.add(leak)
    largest = heapq.nsmallest(_TOLD, groups.values(), key=lambda group: (-group.count, group.kind, group.tag))
    for group in largest:
        oldest = group.oldest
        refs = ", ".join(map(str, group.named)) + (", …" if group.count > _NAMED else "")
        where = f"; made at {oldest.origin.splitlines()[0]}" if oldest.origin else ""
        logger.warning(
            "%d leaked monitors, tag %s: %s (%s); the oldest is %.0f s old%s; to mend it: %s",
            *(group.count, group.tag, group.kind, refs, oldest.age_s, where, oldest.mend),
        )
        emit(events.LEAKED, {"count": group.count}, kind=group.kind, tag=group.tag, oldest_s=round(oldest.age_s))
    others = len(groups) - len(largest)
    if others:
        count = sum(group.count for group in groups.values()) - sum(group.count for group in largest)
        oldest_s = max(group.oldest.age_s for group in groups.values())
        logger.warning("%d more leaked monitors, of %d other kinds and tags; `monitors leaks` lists all", count, others)
        emit(events.LEAKED, {"count": count}, kind="", tag="", oldest_s=round(oldest_s))
