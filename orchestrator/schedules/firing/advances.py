"""Decisions about schedules that are due, on their way to Redis and as events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.state import Decision, Fate, ScheduleState
from orchestrator.core.schedules.values import Overlap
from orchestrator.schedules.firing.due import DueSchedule
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.scripts import Advance, Written
from orchestrator.schedules.redis.stored_state import change_of
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Bytes of messages in one call.
_MOST_BYTES: Final = 1024 * 1024


def advance_of(
    definition: ScheduleDefinition,
    schedule: DueSchedule,
    state: ScheduleState,
    decision: Decision,
    message: Written | None,
) -> Advance:
    """The decision about a schedule as the script of its fire carries it out."""
    after = decision.state
    waits = ""
    if message is not None and (definition.overlap is not Overlap.ALLOW or definition.pause_on_failure):
        waits = "1" if definition.pause_on_failure else "0"
    return Advance(
        schedule.id, state.rev, state.next_ms, state.running, after.due_ms, message, waits, change_of(decision, state)
    )


def portions(advances: Sequence[Advance]) -> Iterable[list[Advance]]:
    """Parts of which each is small enough for one call."""
    some: list[Advance] = []
    size = 0
    for one in advances:
        length = len(one.message.text) if one.message is not None else 0
        if some and (len(some) >= scripts.MOST_AT_ONCE or size + length > _MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += length
    if some:
        yield some


def emit_fired(advance: Advance, now_ms: int) -> None:
    """Emit that a fire was accepted, and how late."""
    record = next((r for r in advance.change.records if r.what == Fate.FIRED), None)
    if record is not None:
        late_s = max(0, now_ms - record.last_ms) / 1000
        emit(events.SCHEDULE_FIRED, {"late_s": late_s}, schedule=advance.id, id=record.delivery)


def emit_lost(advance: Advance) -> None:
    """Log and emit which times were missed or skipped."""
    for record in advance.change.records:
        if record.what == Fate.MISSED:
            logger.warning("schedule %s: %s missed: %s", advance.id, counted(record.number, "fire"), record.reason)
            emit(events.SCHEDULE_MISSED, {"count": record.number}, schedule=advance.id, reason=record.reason)
        elif record.what == Fate.SKIPPED:
            emit(events.SCHEDULE_SKIPPED, {"count": record.number}, schedule=advance.id, reason=record.reason)
