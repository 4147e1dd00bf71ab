"""Takes the schedules of another scheduler over, each from when it last ran there: nothing twice, nothing missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from orchestrator.core.errors import CallerError, InvalidSchedule
from orchestrator.core.schedules.checks import id_faults
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.rule import begin
from orchestrator.core.schedules.triggers import Foreign, SteppedTimes, Times
from orchestrator.schedules.declared.celery_schedules import NextAfter
from orchestrator.schedules.declared.static_schedules import schedule_of, with_names
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut
from orchestrator.schedules.schedules import Schedules

#: The task that every scheduler of Celery adds.
_CLEANUP: Final = "celery.backend_cleanup"


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The result of taking a schedule of another scheduler over."""

    name: str
    #: ``added``, ``exists`` or ``left out``.
    action: str
    #: Why it is left out, or what is not as it was.
    note: str = ""
    #: The first time that this library fires, and when the schedule last ran, in ms since 1970.
    next_ms: int | None = None
    last_run_ms: int | None = None


def take_over(
    app: Celery, schedules: Schedules, found: Iterable[Found], *, source: str, is_dry: bool
) -> Iterator[TakenOver]:
    """Add schedules that do not exist yet; with ``is_dry`` only say what would be done.

    One that is disabled there is added, and paused.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    declared = with_names(app.conf.beat_schedule or {}, app)
    for one in found:
        if isinstance(one, LeftOut):
            yield TakenOver(one.name, "left out", one.why)
            continue
        if one.task == _CLEANUP and one.name not in declared:
            yield TakenOver(one.name, "exists", "each scheduler adds it by itself")
            continue
        try:
            definition, next_after, note = _definition(app, schedules, one, declared)
        except CallerError as error:
            yield TakenOver(one.name, "left out", str(error))
            continue
        last_ms = one.last_run_ms if one.is_enabled else None
        paused = "" if one.is_enabled else f"disabled in {source}"
        yield add_definition(schedules, definition, next_after, last_ms, paused, note=note, is_dry=is_dry)


def add_definition(
    schedules: Schedules,
    definition: ScheduleDefinition,
    next_after: NextAfter | None,
    last_ms: int | None,
    paused: str,
    *,
    note: str = "",
    is_dry: bool,
) -> TakenOver:
    """Add one schedule that is not there yet."""
    if definition.id in schedules:
        return TakenOver(definition.id, "exists", "it is left as it is", None, last_ms)
    now_ms = schedules.now_ms()
    since_ms = now_ms if last_ms is None else last_ms
    times: Times | None = SteppedTimes(next_after, since_ms) if next_after is not None else None
    if isinstance(definition.trigger, Foreign) and times is None:
        return TakenOver(definition.id, "left out", "only the code that declares it computes its times", None, last_ms)
    next_ms = begin(definition, now_ms, last_ms=last_ms, times=times).next_ms
    if not is_dry:
        schedules.put(definition, next_after, last_ms)
        if paused:
            schedules[definition.id].pause(paused)
    notes = "; ".join(filter(None, [note, f"paused: {paused}" if paused else ""]))
    return TakenOver(definition.id, "added", notes, next_ms, last_ms)


def _definition(
    app: Celery, schedules: Schedules, one: FoundSchedule, declared: dict[str, Any]
) -> tuple[ScheduleDefinition, NextAfter | None, str]:
    if one.name in declared:
        # What the code says wins: a beat that starts would put it in force anyway.
        static = schedule_of(app, one.name, declared[one.name])
        return static.definition, static.bound.next_after if static.bound else None, "declared in beat_schedule"
    signature = app.signature(one.task, args=one.args, kwargs=dict(one.kwargs), **dict(one.options))
    name, note = one.name, ""
    if faults := id_faults(name):
        name, note = faults[0].nearest, f"its name was {one.name!r}"
        if not name:
            raise InvalidSchedule(one.name, faults)
    # The moment of a one-off that never ran has perhaps passed: it is fired late rather than not at all.
    grace = {"misfire_grace_s": 365 * 86400} if "at" in one.when else {}
    definition, next_after = schedules.define(
        name, signature, None, schedule=one.schedule, options={**one.when, **grace}
    )
    return definition, next_after, note
