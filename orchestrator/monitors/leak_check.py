"""The periodic search for leaked monitors: a warning, and an event, for each kind and tag."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.monitors.leak import Leak
from orchestrator.telemetry import emit, events

if TYPE_CHECKING:
    from orchestrator.monitors.search import LeakSearch
    from orchestrator.monitors.stored import StoredMonitors

logger = logging.getLogger(__name__)

#: Of one run. A million monitors take several: whoever looks for leaks also sweeps, and that is more urgent.
_SLICE_S = 0.4

#: Refs named in a warning.
_NAMED = 3


class LeakCheck:
    """Goes on with one search at each run, and reports when it is through."""

    def __init__(self, monitors: Callable[[], StoredMonitors]) -> None:
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


def report(leaks: list[Leak]) -> None:
    """Warn of leaks, by tag and kind."""

    def group(leak: Leak) -> tuple[str, str]:
        return leak.kind.value, repr(leak.tag)

    for (kind, tag), some in groupby(sorted(leaks, key=group), key=group):
        found = list(some)
        oldest = max(found, key=lambda leak: leak.age_s)
        refs = ", ".join(str(leak.ref) for leak in found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
        where = f"; made at {oldest.origin.splitlines()[0]}" if oldest.origin else ""
        logger.warning(
            "%d leaked monitors, tag %s: %s (%s); the oldest is %.0f s old%s; to mend it: %s",
            *(len(found), tag, kind, refs, oldest.age_s, where, oldest.mend),
        )
        emit(events.LEAKED, {"count": len(found)}, kind=kind, tag=tag, oldest_s=round(oldest.age_s))
