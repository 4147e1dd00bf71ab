"""Schedules as JSON documents and as cells of tables."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.core.schedules.options import to_datetime
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, Once
from orchestrator.core.schedules.values import AgentRecipient, TaskRecipient
from orchestrator.core.secrets.redact import redact
from orchestrator.core.times import age

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.cli.output.tables import Toned
    from orchestrator.core.schedules.definition import ScheduleDefinition
    from orchestrator.schedules.history import HistoryEntry
    from orchestrator.schedules.info import ScheduleInfo

schedule_id = click.argument("schedule_id", metavar="NAME")


if TYPE_CHECKING:
    _MomentType = click.ParamType[datetime]
else:
    # Generic in newer versions of click only.
    _MomentType = click.ParamType


class Moment(_MomentType):
    """A moment in ISO 8601, as ``2026-10-25T02:30`` or ``2026-10-25 02:30:00+01:00``."""

    name = "moment"

    def __init__(self, *, needs_zone: bool = False) -> None:
        self._needs_zone = needs_zone

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the text; fails as a usage error that names the value and what is allowed."""
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        except ValueError:
            self.fail(f"{value!r} is not allowed; allowed: ISO 8601, as 2026-10-25T02:30", param, ctx)
        if self._needs_zone and found.tzinfo is None:
            self.fail(f"{value!r} has no time zone; allowed: {value}Z, or {value}+01:00", param, ctx)
        return found


def trigger_text(definition: ScheduleDefinition) -> str:
    """The due time of a schedule, in a few words."""
    match definition.trigger:
        case Cron(expression, tz):
            return f"{expression} ({tz})"
        case Interval(every_ms):
            return f"every {age(every_ms / 1000)}" if every_ms >= 1000 else f"every {every_ms}ms"
        case Once(at_ms):
            return f"at {to_datetime(at_ms).isoformat(' ', 'seconds')}"
        case Foreign(kind, text):
            return text or kind


def recipient_text(definition: ScheduleDefinition) -> str:
    """The recipient of a schedule's fires."""
    match definition.recipient:
        case AgentRecipient(agent, message):
            return f"{agent}: {message}"
        case TaskRecipient(task):
            return task


def state_cell(info: ScheduleInfo) -> Toned:
    """A schedule's state, in colour."""
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import Tone, Toned

    if info.broken:
        return Toned("broken", Tone.BAD)
    if info.is_paused:
        return Toned("paused", Tone.WARNING)
    if info.state.next_ms is None and info.state.buffered_ms is None:
        return Toned("ended", Tone.WARNING)
    return Toned("refused", Tone.BAD) if info.state.refused else Toned("active", Tone.GOOD)


def why_not_exactly_once(orchestrator: Orchestrator, info: ScheduleInfo) -> str:
    """The reason why a fire of a schedule may be accepted twice; empty if it cannot."""
    # Here, so that `celery worker` does not load it.
    from orchestrator.schedules.firing import exactness

    return "" if info.definition is None else exactness.why_not_exactly_once(orchestrator.app, info.definition)


def note_of(orchestrator: Orchestrator, info: ScheduleInfo) -> str:
    """Other remarks on a schedule's fires."""
    # Here, so that `celery worker` does not load it.
    from orchestrator.schedules.firing import exactness

    if info.definition is None:
        return ""
    by_task = orchestrator.runtime.directory.by_task
    return exactness.note_of(orchestrator.app, info.definition, lambda task: by_task(task) is not None)


def schedule_document(info: ScheduleInfo, orchestrator: Orchestrator) -> dict[str, Any]:
    """All that is known of a schedule, secrets hidden."""
    state, counts, definition = info.state, info.counts, info.definition
    hidden = orchestrator.runtime.hidden.names
    try:
        stored = redact(json.loads(info.text), hidden)
    except (ValueError, RecursionError):
        stored = None
    return {
        "id": info.id,
        "source": info.source,
        "owner": info.owner,
        "state": str(state_cell(info)),
        "broken": info.broken,
        "ended": info.ended,
        "trigger": "" if definition is None else trigger_text(definition),
        "recipient": "" if definition is None else recipient_text(definition),
        "not_exactly_once": why_not_exactly_once(orchestrator, info),
        "note": note_of(orchestrator, info),
        "next": _moment(state.next_ms),
        "due": _moment(state.due_ms),
        "last": _moment(state.last_ms),
        "paused": state.paused,
        "paused_since": _moment(state.paused_ms or None),
        "running": state.running,
        "buffered": _moment(state.buffered_ms),
        "refused": state.refused,
        "revision": state.rev,
        "runs": state.runs,
        "counts": {
            "due": counts.due,
            "fired": counts.fired,
            "coalesced": counts.coalesced,
            "missed": counts.missed,
            "skipped": counts.skipped,
        },
        "definition": stored,
    }


def entry_document(entry: HistoryEntry) -> dict[str, Any]:
    """An entry of the history."""
    return {
        "schedule": entry.schedule,
        "fate": entry.fate,
        "first": _moment(entry.first_ms),
        "last": _moment(entry.last_ms),
        "count": entry.count,
        "reason": entry.reason,
        "into": _moment(entry.into_ms),
        "delivery": entry.delivery,
        "at": _moment(entry.at_ms),
    }


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_datetime(at_ms).isoformat(timespec="milliseconds")
