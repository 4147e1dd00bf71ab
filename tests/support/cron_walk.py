"""The moments of a cron expression, found by walking through UTC and looking at the clock on the wall of a zone."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from orchestrator.core.schedules.cron_fields import CronFields
from orchestrator.core.schedules.cron_times import DstFold, DstGap

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_S = 86400


def cron_field(low: int, high: int) -> st.SearchStrategy[str]:
    """One field of a cron expression: usual ones, and odd ones."""
    number = st.integers(low, high)

    def spread(bounds: tuple[int, int]) -> str:
        return f"{min(bounds)}-{max(bounds)}"

    part = st.one_of(
        number.map(str),
        st.tuples(number, number).map(spread),
        st.tuples(st.tuples(number, number).map(spread), st.integers(1, high + 1)).map(lambda p: f"{p[0]}/{p[1]}"),
        st.integers(2, high + 1).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), number.map(str), st.lists(part, min_size=1, max_size=3).map(",".join))


def fixed_field(low: int, high: int) -> st.SearchStrategy[str]:
    """One field without a wildcard."""
    return st.lists(st.integers(low, high), min_size=1, max_size=3).map(lambda values: ",".join(map(str, values)))


#: Hours at which clocks are changed are drawn more often than others.
hours = st.one_of(cron_field(0, 23), st.sampled_from(["0", "1", "2", "3", "23", "1-3", "0,2", "*"]))
minutes = cron_field(0, 59)
expressions = st.one_of(
    st.tuples(minutes, hours).map(lambda p: f"{p[0]} {p[1]} * * *"),
    st.tuples(minutes, hours, cron_field(1, 28), cron_field(1, 12), cron_field(0, 6)).map(" ".join),
)
fixed_expressions = st.tuples(
    fixed_field(0, 59), st.one_of(fixed_field(0, 23), st.sampled_from(["0", "1", "2", "3", "23", "0-4"]))
).map(lambda p: f"{p[0]} {p[1]} * * *")


class Walk:
    """The wall clock of a zone for some days, minute by minute."""

    def __init__(self, tz: str, middle_s: int, days: int = 3) -> None:
        self.begin_s = (middle_s - days * DAY_S) // DAY_S * DAY_S
        self.end_s = (middle_s + days * DAY_S) // DAY_S * DAY_S
        zone = ZoneInfo(tz)
        # Some zones were off by less than a minute once.
        offsets = [_offset(zone, at_s) for at_s in range(self.begin_s - DAY_S, self.end_s + DAY_S, 3600)]
        step_s = 60 if all(offset % 60 == 0 for offset in offsets) else 1 if any(o % 30 for o in offsets) else 30
        #: Moment -> seconds that the clock on the wall would count, in order; a day more at each end.
        self.wall = [
            (at_s, at_s + _offset(zone, at_s)) for at_s in range(self.begin_s - DAY_S, self.end_s + DAY_S, step_s)
        ]

    def moments(self, fields: CronFields, gap: DstGap, fold: DstFold) -> list[int]:
        """The moments in the walk's days at which an expression matches."""
        by_wall: dict[int, list[int]] = {}
        skipped: list[tuple[int, int]] = []
        for place, (at_s, wall_s) in enumerate(self.wall):
            before_at_s, before_s = self.wall[place - 1] if place else (at_s - 60, wall_s - 60)
            due_s = before_s + (at_s - before_at_s)
            if wall_s > due_s:
                skipped += [(missing_s, at_s) for missing_s in range(-(-due_s // 60) * 60, wall_s, 60)]
            if wall_s % 60 == 0:
                by_wall.setdefault(wall_s, []).append(at_s)
        dates = {wall_s // DAY_S for wall_s in by_wall}
        chosen = {DstFold.FIRST: slice(0, 1), DstFold.SECOND: slice(-1, None), DstFold.BOTH: slice(None)}[fold]
        found = {at_s for wall_s, all_s in by_wall.items() if _matches(fields, wall_s) for at_s in all_s[chosen]}
        if gap is DstGap.SHIFT:
            found |= {at_s for wall_s, at_s in skipped if wall_s // DAY_S in dates and _matches(fields, wall_s)}
        ordered = sorted(found)
        return ordered[bisect_left(ordered, self.begin_s) : bisect_left(ordered, self.end_s)]


def _offset(zone: ZoneInfo, at_s: int) -> int:
    offset = (EPOCH + timedelta(seconds=at_s)).astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _matches(fields: CronFields, wall_s: int) -> bool:
    day = date.fromordinal(date(1970, 1, 1).toordinal() + wall_s // DAY_S)
    minute_of_day = wall_s % DAY_S // 60
    return (
        minute_of_day % 60 in fields.minutes
        and minute_of_day // 60 in fields.hours
        and day.day in fields.days
        and day.month in fields.months
        and day.isoweekday() % 7 in fields.weekdays
    )
