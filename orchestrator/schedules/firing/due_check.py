"""Finds schedules that have a next time and are due in no set: an eviction or a hand has deleted the set."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.core.log import get_logger
from orchestrator.core.schedules.state import Decision
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.redis.stored import StoredSchedule
from orchestrator.schedules.redis.writing import ScheduleWriter
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

_WHY: Final = "its state is gone; was it evicted?"


class DueCheck:
    """Looks through all schedules when the sets of what is due have become much smaller; a page with each idle look.

    Whatever has lost its place in the sets is due again at its next time, so that its misfire policy decides.
    """

    def __init__(self, schedules: ScheduleWriter) -> None:
        self._schedules = schedules
        #: How many schedules were due at any time, at the last look.
        self._waiting: int | None = None
        #: Where the search goes on; ``None`` if there is none.
        self._cursor: int | None = None

    def look(self, due: Due) -> None:
        """See what a look has found, and go on with a search.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        if not due.is_mine:
            self._waiting = self._cursor = None
            return
        before, self._waiting = self._waiting, due.waiting
        if 2 * due.waiting < (due.number if before is None else before):
            self._cursor = 0
        if self._cursor is not None and not due.schedules:
            self._cursor, ids = self._schedules.page(self._cursor)
            for stored in self._schedules.read(ids):
                if stored is not None:
                    self._repair(stored)
            self._cursor = self._cursor or None

    def _repair(self, stored: StoredSchedule) -> None:
        if not stored.text or stored.broken:
            return
        if not stored.fault and not stored.fields.get("r"):
            logger.error("schedule %s is broken and set aside: %s", stored.id, _WHY)
            emit(events.SCHEDULE_BROKEN, schedule=stored.id, error=_WHY)
            self._schedules.set_aside(stored.id, _WHY)
        elif _is_lost(stored) and self._schedules.change(stored.id, _again):
            logger.error("schedule %s was in no set of what is due, and is again; was the set evicted?", stored.id)


def _is_lost(stored: StoredSchedule) -> bool:
    try:
        return _again(stored, 0) is not None
    except ValueError:
        # What cannot be read is not due, and is listed as broken.
        return False


def _again(stored: StoredSchedule, _: int) -> Decision | None:
    """The state of a schedule that should be due and is not; ``None`` if nothing is wrong."""
    state = stored.state
    if state.due_ms is not None or state.paused:
        return None
    is_free = state.buffered_ms is not None and not state.running
    due_ms = state.buffered_ms if is_free else state.next_ms
    return None if due_ms is None else Decision(replace(state, due_ms=due_ms))
