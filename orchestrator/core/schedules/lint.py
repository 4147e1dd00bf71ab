"""Warns of surprises in a schedule before they happen: changes of clocks, and days that must match twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from orchestrator.core.schedules.cron_fields import CronFields, read_cron
from orchestrator.core.schedules.cron_times import DstFold, DstGap
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.options import to_datetime
from orchestrator.core.schedules.triggers import Cron, times_of
from orchestrator.core.schedules.zones import EPOCH_ORDINAL, Change, changes_between

_DAY_S: Final = 86400
#: Changes of clocks are looked for this far ahead.
_AHEAD_DAYS: Final = 400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: Times that a finding shows, at most.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing that may surprise."""

    schedule: str
    #: ``dst-gap``, ``dst-fold`` or ``day-and-weekday``.
    code: str
    text: str


def lint(definition: ScheduleDefinition, now_ms: int) -> list[LintFinding]:
    """All that may surprise about a schedule; nothing about one without a cron expression."""
    trigger = definition.trigger
    if not isinstance(trigger, Cron):
        return []
    fields, _ = read_cron(trigger.expression)
    if fields is None:
        return []
    findings = []
    if fields.narrows_day_and_weekday:
        shown = ", ".join(following(trigger, now_ms))
        text = (
            f"{trigger.expression!r} has a day of month and a day of week: both must match, as in Celery; "
            f"in Vixie's cron one is enough; the next times: {shown or 'none'}"
        )
        findings.append(LintFinding(definition.id, "day-and-weekday", text))
    today = now_ms // 1000 // _DAY_S + EPOCH_ORDINAL
    seen: set[bool] = set()
    for change in changes_between(trigger.tz, today, today + _AHEAD_DAYS):
        hit = _times_in(fields, change)
        if hit and change.is_gap not in seen and change.at_s * 1000 > now_ms:
            seen.add(change.is_gap)
            code = "dst-gap" if change.is_gap else "dst-fold"
            findings.append(LintFinding(definition.id, code, _text(trigger, fields, change, hit)))
    return findings


def following(trigger: Cron, after_ms: int, count: int = _SHOWN) -> list[str]:
    """The next times, as the clock on the wall shows them."""
    found: list[str] = []
    moment = times_of(trigger).next_after(after_ms)
    while moment is not None and len(found) < count:
        found.append(to_datetime(moment, trigger.tz).isoformat(" ", "minutes"))
        moment = times_of(trigger).next_after(moment)
    return found


def _times_in(fields: CronFields, change: Change) -> list[str]:
    """The local times of an expression that a change skips or repeats."""
    before, after = change.at_s + change.before_s, change.at_s + change.after_s
    low_s, high_s = min(before, after), max(before, after)
    found = []
    for ordinal in range(low_s // _DAY_S, (high_s - 1) // _DAY_S + 1):
        day = date.fromordinal(ordinal + EPOCH_ORDINAL)
        is_day = day.day in fields.days and day.month in fields.months and day.isoweekday() % 7 in fields.weekdays
        if not is_day:
            continue
        seconds = (hour * 3600 + minute * 60 for hour in fields.hours for minute in fields.minutes)
        found += [_wall(ordinal * _DAY_S + second) for second in seconds if low_s <= ordinal * _DAY_S + second < high_s]
    return found


def _text(trigger: Cron, fields: CronFields, change: Change, hit: list[str]) -> str:
    shown = ", ".join(hit[:_SHOWN]) + (f" and {len(hit) - _SHOWN} more" if len(hit) > _SHOWN else "")
    elapsed = fields.by_elapsed_time
    at = _wall(change.at_s + change.after_s)
    if change.is_gap:
        gap = trigger.dst_gap or (DstGap.SKIP if elapsed else DstGap.SHIFT)
        then = f"fires at {at} instead (dst_gap=shift)" if gap is DstGap.SHIFT else "does not fire then (dst_gap=skip)"
        return f"{shown} does not exist in {trigger.tz}: the schedule {then}"
    fold = trigger.dst_fold or (DstFold.BOTH if elapsed else DstFold.FIRST)
    then = "at both" if fold is DstFold.BOTH else f"at the {fold} only"
    return f"{shown} comes twice in {trigger.tz}: the schedule fires {then} (dst_fold={fold})"


def _wall(local_s: int) -> str:
    return (_EPOCH + timedelta(seconds=local_s)).strftime("%Y-%m-%d %H:%M")
