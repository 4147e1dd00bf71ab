"""The moments of a cron expression in a time zone.

A fixed time (no wildcard in minute or hour) comes once per local day, as in Vixie's cron: at the first valid moment if
the clock skips it, at the first of two if the clock is set back. With a wildcard in minute or hour, the moments are
those whose local time matches, so they follow the time that elapses.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import Final

from orchestrator.core.schedules.cron_fields import CronFields
from orchestrator.core.schedules.zones import EPOCH_ORDINAL, LAST_MS, Change, changes, offset_of_day

_DAY_S: Final = 86400
#: No date matches later than this many days after another one: 29 February on a given weekday comes within 40 years.
_HORIZON: Final = 48 * 366
_LAST_ORDINAL: Final = LAST_MS // 1000 // _DAY_S + EPOCH_ORDINAL
_FIRST_ORDINAL: Final = EPOCH_ORDINAL - 366


class DstGap(StrEnum):
    """The treatment of a time that the clock skips."""

    #: It is moved to the first moment after the gap.
    SHIFT = "shift"
    SKIP = "skip"


class DstFold(StrEnum):
    """The choice between two moments with the same local time."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"


class CronTimes:
    """The moments of one expression in one zone, in ms since 1970. Equal arguments give equal moments."""

    def __init__(self, fields: CronFields, tz: str, gap: DstGap, fold: DstFold) -> None:
        self._tz, self._gap, self._fold = tz, gap, fold
        #: Seconds of a day at which the clock on the wall matches.
        self._seconds = tuple(hour * 3600 + minute * 60 for hour in fields.hours for minute in fields.minutes)
        self._days, self._months = frozenset(fields.days), frozenset(fields.months)
        self._weekdays = frozenset(fields.weekdays)
        self._is_daily = (len(self._days), len(self._months), len(self._weekdays)) == (31, 12, 7)
        self._on_changed_day = lru_cache(maxsize=512)(self._find_on_changed_day)
        self.next_after = lru_cache(maxsize=4096)(self._next_after)

    def _next_after(self, after_ms: int) -> int | None:
        """The first moment after this one."""
        after_s = after_ms // 1000
        found: int | None = None
        for ordinal in self._dates(after_s // _DAY_S + EPOCH_ORDINAL - 1, 1):
            offset = offset_of_day(self._tz, ordinal)
            if offset is not None:
                start_s = (ordinal - EPOCH_ORDINAL) * _DAY_S - offset
                place = bisect_right(self._seconds, after_s - start_s)
                if place < len(self._seconds):
                    found = _least(found, start_s + self._seconds[place])
            else:
                times = self._on_changed_day(ordinal)
                place = bisect_right(times, after_s)
                if place < len(times):
                    is_first, found = found is None, _least(found, times[place])
                    if is_first:
                        # Where midnight comes twice, the next day has begun before.
                        continue
            if found is not None:
                return found * 1000
        return None if found is None else found * 1000

    def latest(self, at_ms: int, _from_ms: int = 0) -> int | None:
        """The last moment that is not after this one."""
        at_s = at_ms // 1000
        found: int | None = None
        for ordinal in self._dates(at_s // _DAY_S + EPOCH_ORDINAL + 1, -1):
            times = self._on(ordinal)
            place = bisect_right(times, at_s)
            if place:
                is_first = found is None
                found = times[place - 1] if found is None else max(found, times[place - 1])
                if is_first and offset_of_day(self._tz, ordinal) is None:
                    continue
            if found is not None:
                break
        return None if found is None else found * 1000

    def count(self, low_ms: int, high_ms: int) -> int:
        """The number of moments from ``low_ms`` to ``high_ms``, both included."""
        low_s, high_s = -(-low_ms // 1000), high_ms // 1000
        if low_s > high_s:
            return 0
        last = high_s // _DAY_S + EPOCH_ORDINAL + 1
        on_changed_days: set[int] = set()
        total = 0
        for ordinal in self._dates(low_s // _DAY_S + EPOCH_ORDINAL - 1, 1, bound=last):
            offset = offset_of_day(self._tz, ordinal)
            if offset is None:
                on_changed_days.update(time for time in self._on_changed_day(ordinal) if low_s <= time <= high_s)
                continue
            start_s = (ordinal - EPOCH_ORDINAL) * _DAY_S - offset
            total += bisect_right(self._seconds, high_s - start_s) - bisect_left(self._seconds, low_s - start_s)
        return total + len(on_changed_days)

    def on_date(self, ordinal: int) -> list[int]:
        """The moments that belong to a local date, in seconds; none if the date does not match."""
        return list(self._on(ordinal)) if self._matches(ordinal) else []

    def _matches(self, ordinal: int) -> bool:
        day = date.fromordinal(ordinal)
        return day.month in self._months and day.day in self._days and ordinal % 7 in self._weekdays

    def _dates(self, ordinal: int, direction: int, bound: int | None = None) -> Iterator[int]:
        """The matching dates from one date on, until no other date can match or to a bound."""
        if bound is None:
            bound = ordinal + direction * _HORIZON
        bound = min(max(bound, _FIRST_ORDINAL), _LAST_ORDINAL)
        while (bound - ordinal) * direction >= 0 and _FIRST_ORDINAL <= ordinal <= _LAST_ORDINAL:
            if not self._is_daily:
                day = date.fromordinal(ordinal)
                if day.month not in self._months:
                    # To the first day of the next month, or to the last one of the month before.
                    ordinal += monthrange(day.year, day.month)[1] - day.day + 1 if direction > 0 else -day.day
                    continue
                if day.day not in self._days or ordinal % 7 not in self._weekdays:
                    ordinal += direction
                    continue
            yield ordinal
            ordinal += direction

    def _on(self, ordinal: int) -> tuple[int, ...]:
        offset = offset_of_day(self._tz, ordinal)
        if offset is None:
            return self._on_changed_day(ordinal)
        start_s = (ordinal - EPOCH_ORDINAL) * _DAY_S - offset
        return tuple(start_s + second for second in self._seconds)

    def _find_on_changed_day(self, ordinal: int) -> tuple[int, ...]:
        """The moments of a date on which, or near to which, the clock is changed."""
        start_s = (ordinal - EPOCH_ORDINAL) * _DAY_S
        near = changes(self._tz, ordinal)
        if any(c.at_s + c.before_s <= start_s and start_s + _DAY_S <= c.at_s + c.after_s for c in near):
            # The zone has skipped this date (as Samoa did 30 December 2011).
            return ()
        found: set[int] = set()
        for second in self._seconds:
            local_s = start_s + second
            moments = moments_of(near, local_s)
            if not moments:
                if self._gap is DstGap.SHIFT:
                    found.update(c.at_s for c in near if skips(c, local_s))
            elif self._fold is DstFold.FIRST:
                found.add(moments[0])
            elif self._fold is DstFold.SECOND:
                found.add(moments[-1])
            else:
                found.update(moments)
        return tuple(sorted(found))


def skips(change: Change, local_s: int) -> bool:
    """Whether a change leaves a local time out (seconds since 1970 as the clock on the wall would count them)."""
    return change.at_s + change.before_s <= local_s < change.at_s + change.after_s


def moments_of(near: tuple[Change, ...], local_s: int) -> list[int]:
    """The moments that have a local time: none in a gap, two in a fold."""
    found = []
    begin_s: float = float("-inf")
    for place in range(len(near) + 1):
        offset = near[place].before_s if place < len(near) else near[-1].after_s
        end_s = near[place].at_s if place < len(near) else float("inf")
        if begin_s <= local_s - offset < end_s:
            found.append(local_s - offset)
        begin_s = end_s
    return found


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
