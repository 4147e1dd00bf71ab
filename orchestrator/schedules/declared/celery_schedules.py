"""Celery's schedule objects as triggers.

``crontab``, ``schedule``, ``timedelta`` and numbers become triggers of our own, with our rules for days on which clocks
are changed. ``solar`` stays Celery's, but is rebuilt from its arguments in any process. An app's own class is asked for
its next time, in processes that declare it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery.schedules import BaseSchedule, crontab, schedule, solar

from orchestrator.core.checks.numbers import plain
from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.cron_fields import read_cron
from orchestrator.core.schedules.triggers import LONGEST_MS, SHORTEST_MS, Cron, Foreign, Interval, Trigger
from orchestrator.core.schedules.zones import UnknownZone, zone

#: The first nominal time after a moment, in ms since 1970.
NextAfter = Callable[[int], int | None]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SOLAR: Final = "solar"

#: What may stand as ``schedule`` in an entry.
ALLOWED: Final = "seconds, a timedelta, crontab(), solar() or another of Celery's schedule objects"


def trigger_of(app: Any, value: Any, name: str = "") -> tuple[Trigger, NextAfter | None]:
    """The trigger of what stands as ``schedule`` in an entry of ``beat_schedule``; for a foreign one also its times.

    Raises:
        InvalidSchedule: it is no schedule, or one that never comes.
    """
    # Subclasses may do anything, so they are asked.
    kind = type(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _interval(value, name), None
    if isinstance(value, timedelta):
        return _interval(value.total_seconds(), name), None
    if kind is schedule and not value.relative and value.nowfun is None:
        return _interval(value.run_every.total_seconds(), name), None
    if kind is crontab and value.nowfun is None and (tz := _zone_name(_zone_of(app, value))):
        return _cron(value, tz, name), None
    if kind is solar:
        foreign = Foreign(_SOLAR, _text(value), (value.event, value.lat, value.lon))
    elif isinstance(value, BaseSchedule):
        foreign = Foreign(f"{kind.__module__}.{kind.__qualname__}", _text(value))
    else:
        raise InvalidSchedule(name, [ScheduleFault("schedule", value, ALLOWED)])
    return foreign, _next_after(app, value)


def next_after_of(app: Any, foreign: Foreign) -> NextAfter | None:
    """The times of a foreign trigger whose arguments are known; ``None`` if only a process that declares it has them.

    Raises:
        InvalidSchedule: the arguments do not fit.
        ImproperlyConfigured: ephem is not installed.
    """
    if foreign.kind != _SOLAR or not foreign.arguments:
        return None
    try:
        event, lat, lon = foreign.arguments
        rebuilt = solar(event, lat, lon, app=app)
    except (TypeError, ValueError) as error:
        raise InvalidSchedule("", [ScheduleFault("solar", foreign.arguments, str(error))]) from None
    return _next_after(app, rebuilt)


def _next_after(app: Any, value: BaseSchedule) -> NextAfter:
    """The times of a schedule object, each asked for as if it were the time before it."""

    def next_after(after_ms: int) -> int | None:
        after = (_EPOCH + timedelta(milliseconds=after_ms)).astimezone(app.timezone)
        asked = copy(value)
        asked.app = app
        asked.nowfun = lambda: after
        try:
            remaining: timedelta = asked.remaining_estimate(after)
        except NotImplementedError:
            is_due, next_s = asked.is_due(after)
            remaining = timedelta(0) if is_due else timedelta(seconds=next_s)
        return after_ms + max(1, -(-remaining // timedelta(milliseconds=1)))

    return next_after


def _interval(every_s: float, name: str) -> Interval:
    low_s, high_s = SHORTEST_MS / 1000, LONGEST_MS / 1000
    # A NaN is within no bounds.
    if not low_s <= every_s <= high_s:
        allowed = f"an interval from {plain(low_s)} s to ten years"
        raise InvalidSchedule(
            name, [ScheduleFault("schedule", every_s, allowed, plain(low_s) if 0 < every_s < low_s else "")]
        )
    return Interval(round(every_s * 1000))


def _cron(value: crontab, tz: str, name: str) -> Cron:
    expression = crontab_expression(value)
    try:
        return Cron(expression, tz)
    except InvalidSchedule as error:
        raise InvalidSchedule(name, error.faults) from None


def crontab_expression(value: crontab) -> str:
    """The five fields of a ``crontab`` as a cron expression."""
    said = (
        value._orig_minute,
        value._orig_hour,
        value._orig_day_of_month,
        value._orig_month_of_year,
        value._orig_day_of_week,
    )
    fields = [_field(each) for each in said]
    parsed = (value.minute, value.hour, value.day_of_month, value.month_of_year, value.day_of_week)
    for place, text in enumerate(fields):
        alone = ["*"] * place + [text] + ["*"] * (len(fields) - place - 1)
        if read_cron(" ".join(alone))[0] is None:
            # Celery's parser takes more than ours, which is given what it found.
            fields[place] = ",".join(str(number) for number in sorted(parsed[place]))
    return " ".join(fields)


def _field(said: int | str | Iterable[Any]) -> str:
    if isinstance(said, int):
        return str(said)
    if isinstance(said, str):
        return "".join(said.split())
    return ",".join(str(each) for each in said)


def _zone_of(app: Any, value: BaseSchedule) -> Any:
    # `tz` is cached by Celery from whichever app is current, unless it was set.
    return value.__dict__.get("tz") or app.timezone


def _zone_name(tz: Any) -> str:
    """The IANA name of a zone; empty if it has none."""
    if tz is UTC:
        return "UTC"
    name = getattr(tz, "key", None) or getattr(tz, "zone", None)
    try:
        zone(name)
    except UnknownZone:
        return ""
    return str(name)


def _text(value: object) -> str:
    return repr(value)[:200]
