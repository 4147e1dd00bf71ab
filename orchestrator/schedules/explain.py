"""Says for any moment what became of a schedule's time, or what will."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from orchestrator.core.checks.numbers import plain
from orchestrator.core.schedules.cron_times import moments_of, skips
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.nominal_times import ScheduleTimes
from orchestrator.core.schedules.options import to_datetime, to_epoch_ms
from orchestrator.core.schedules.state import Fate
from orchestrator.core.schedules.triggers import Cron, Times
from orchestrator.core.schedules.zones import EPOCH_ORDINAL, changes
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.info import ScheduleInfo

_DAY_S: Final = 86400
_MINUTE_MS: Final = 60_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def zone_of(definition: ScheduleDefinition | None) -> str:
    """The zone in which a schedule's times are shown."""
    return definition.trigger.tz if definition is not None and isinstance(definition.trigger, Cron) else "UTC"


def moments(at: datetime, tz: str) -> tuple[list[int], str]:
    """The moments that a datetime means, in ms, and what is odd about it.

    One without a zone is local time: it means two moments where clocks are set back, and where they are set forward
    the first moment after the gap.
    """
    if at.tzinfo is not None:
        return [to_epoch_ms(at)], ""
    local_s = (at.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
    near = changes(tz, local_s // _DAY_S + EPOCH_ORDINAL)
    if not near:
        local = at.replace(tzinfo=to_datetime(0, tz).tzinfo)
        return [to_epoch_ms(local)], ""
    found = moments_of(near, local_s)
    shown = at.isoformat(" ", "minutes")
    if not found:
        at_s = next(change.at_s for change in near if skips(change, local_s))
        begins = to_datetime(at_s * 1000, tz).isoformat(" ", "minutes")
        return [at_s * 1000], f"{shown} does not exist in {tz}: clocks go forward then, to {begins}"
    odd = f"{shown} comes twice in {tz}: clocks are set back then" if len(found) > 1 else ""
    return [moment_s * 1000 for moment_s in found], odd


def explain(
    info: ScheduleInfo, at: datetime, history: Sequence[HistoryEntry], now_ms: int, times: Times | None = None
) -> list[str]:
    """An explanation, in lines, of a schedule's time at a moment. ``times``: of a foreign trigger."""
    definition = info.definition
    if definition is None or info.broken:
        return [f"set aside: {info.broken}"]
    tz = zone_of(definition)
    found, odd = moments(at, tz)
    lines = [odd] if odd else []
    for moment_ms in found:
        lines += _at_moment(info, definition, moment_ms, history, now_ms, times)
    return lines


def _at_moment(
    info: ScheduleInfo,
    definition: ScheduleDefinition,
    at_ms: int,
    history: Sequence[HistoryEntry],
    now_ms: int,
    times: Times | None,
) -> list[str]:
    tz = zone_of(definition)
    # A time without seconds means the whole minute.
    end_ms = at_ms + _MINUTE_MS - 1 if at_ms % _MINUTE_MS == 0 else at_ms
    window = ScheduleTimes(definition, info.state, times, is_whole=True)
    nominal_ms = window.following(at_ms - 1)
    is_time = nominal_ms is not None and nominal_ms <= end_ms
    lines = [
        _past(entry, tz)
        for entry in reversed(history)
        if at_ms <= entry.first_ms <= end_ms
        or at_ms <= entry.last_ms <= end_ms
        or (is_time and entry.first_ms <= at_ms <= entry.last_ms)
    ]
    if nominal_ms is None or nominal_ms > end_ms:
        if not lines:
            then = "no further time" if nominal_ms is None else f"the next one is {_shown(nominal_ms, tz)}"
            lines.append(f"{_shown(at_ms, tz)}: not a time of this schedule; {then}")
        return lines
    next_ms, state = info.state.next_ms, info.state
    if next_ms is not None and nominal_ms >= next_ms:
        lines.append(f"{_shown(nominal_ms, tz)}: {_to_come(info, window, nominal_ms, now_ms, tz)}")
    elif state.buffered_ms is not None and at_ms <= state.buffered_ms <= end_ms:
        lines.append(f"{_shown(nominal_ms, tz)}: waits for the outcome of delivery {state.running}")
    elif not lines:
        if info.ended and nominal_ms > (state.last_ms or 0):
            lines.append(f"{_shown(nominal_ms, tz)}: the schedule had ended: {info.ended}")
        else:
            lines.append(
                f"{_shown(nominal_ms, tz)}: no record: before the schedule's times began, or older than its history"
            )
    return lines


def _to_come(info: ScheduleInfo, window: ScheduleTimes, nominal_ms: int, now_ms: int, tz: str) -> str:
    state = info.state
    if state.paused:
        return f"not fired while the schedule is paused: {state.paused}"
    due_ms = window.due(nominal_ms)
    jitter = f" (with its jitter at {_shown(due_ms, tz)})" if due_ms != nominal_ms else ""
    if due_ms > now_ms:
        return f"to be fired{jitter}"
    why = f"refused so far: {state.refused}" if state.refused else "no scheduler has fired it yet"
    return f"overdue{jitter}; {why}"


def _past(entry: HistoryEntry, tz: str) -> str:
    """The ends of an entry's times, in words."""
    span = _shown(entry.first_ms, tz)
    if entry.last_ms != entry.first_ms:
        span += f" to {_shown(entry.last_ms, tz)} ({entry.count} times)"
    why = f" ({entry.reason})" if entry.reason else ""
    late_s = max(0, entry.at_ms - entry.last_ms) / 1000
    match entry.fate:
        case Fate.FIRED:
            return f"{span}: fired{why} as delivery {entry.delivery}, {plain(late_s)} s after its time"
        case Fate.COALESCED:
            into = _shown(entry.into_ms, tz) if entry.into_ms is not None else "a later one"
            return f"{span}: coalesced into {into}"
        case Fate.BUFFERED:
            return f"{span}: held until the fire before it had an outcome"
        case fate:
            return f"{span}: {fate}: {entry.reason}"


def _shown(at_ms: int, tz: str) -> str:
    return to_datetime(at_ms, tz).isoformat(" ", "seconds" if at_ms % 1000 == 0 else "milliseconds")
