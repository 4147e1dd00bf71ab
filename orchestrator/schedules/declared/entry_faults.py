"""Finds faults in an entry of ``beat_schedule`` before Celery makes an object of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule

from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.spelling.nearest import nearest
from orchestrator.schedules.declared.celery_schedules import ALLOWED

#: What users write in an entry.
_KEYS: Final = ("task", "schedule", "args", "kwargs", "options", "relative")

#: All keys that Celery accepts.
_TAKEN: Final = frozenset({*_KEYS, "name", "app", "last_run_at", "total_run_count"})


def entry_faults(where: str, entry: Any) -> list[ScheduleFault]:
    """All that is wrong with an entry's keys and its schedule; ``where`` names the entry."""
    if isinstance(entry, ScheduleEntry):
        return []
    if not isinstance(entry, Mapping):
        return [ScheduleFault(where, entry, f"a dict with the keys {', '.join(_KEYS)}")]
    faults = []
    for key in entry:
        if key not in _TAKEN:
            faults.append(
                ScheduleFault(f"{where}.{key}", entry[key], f"the keys {', '.join(_KEYS)}", nearest(key, _KEYS))
            )
    # A key that is misspelt is not missing as well.
    misspelt = {fault.nearest for fault in faults}
    schedule = entry.get("schedule")
    if "schedule" not in misspelt and not isinstance(schedule, int | float | timedelta | BaseSchedule):
        faults.append(ScheduleFault(f"{where}.schedule", schedule, ALLOWED))
    if "task" not in misspelt and (not isinstance(entry.get("task"), str) or not entry["task"]):
        faults.append(ScheduleFault(f"{where}.task", entry.get("task"), "the name of a task"))
    return faults
