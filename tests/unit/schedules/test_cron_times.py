"""The moments of cron expressions, against a walk through every minute, against Celery's, and against cronsim's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import pytest
from celery.schedules import crontab
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.schedules.cron_fields import CronFields, read_cron
from orchestrator.core.schedules.cron_times import CronTimes, DstFold, DstGap
from orchestrator.core.schedules.triggers import Cron, next_after, times_of
from orchestrator.core.schedules.zones import EPOCH_ORDINAL, changes, offset_s
from tests.support.cron_walk import DAY_S, Walk, cron_field, expressions, fixed_expressions, fixed_field
from tests.support.drawn_examples import times_factor

ZONES = sorted(available_timezones() - {"localtime", "Factory"})

#: Zones with odd rules: half an hour, midnight, twice in some weeks, a day left out, seconds.
ODD = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia",
    "Africa/Monrovia", "America/Sao_Paulo", "Asia/Tehran", "Asia/Gaza", "Europe/Dublin", "America/Havana",
    "Antarctica/Troll", "Pacific/Kwajalein", "Europe/Lisbon", "Asia/Pyongyang", "America/Caracas", "Asia/Amman",
)  # fmt: skip


def at(text: str) -> int:
    """A moment in ms since 1970."""
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def fields_of(expression: str) -> CronFields:
    fields, faults = read_cron(expression)
    assert fields is not None, faults
    return fields


@lru_cache(maxsize=1024)
def changes_in(tz: str, year: int) -> list[int]:
    """When a zone's clock is changed in a year, in seconds; its middle if it is not."""
    found = []
    begin_s = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    before = offset_s(tz, begin_s)
    for day in range(1, 366):
        after = offset_s(tz, begin_s + day * DAY_S)
        if after != before:
            found.append(begin_s + day * DAY_S)
        before = after
    return found or [begin_s + 180 * DAY_S]


@lru_cache(maxsize=64)
def walk_near(tz: str, middle_s: int) -> Walk:
    return Walk(tz, middle_s)


def check_near(expression: str, tz: str, middle_s: int, gap: DstGap | None, fold: DstFold | None) -> None:
    """What the trigger says around a moment is what a walk finds."""
    fields = fields_of(expression)
    walk = walk_near(tz, middle_s)
    by_elapsed = fields.by_elapsed_time
    expected = walk.moments(
        fields,
        gap or (DstGap.SKIP if by_elapsed else DstGap.SHIFT),
        fold or (DstFold.BOTH if by_elapsed else DstFold.FIRST),
    )
    times = times_of(Cron(expression, tz, gap, fold))
    begin_ms, end_ms = walk.begin_s * 1000, walk.end_s * 1000
    found = []
    moment = times.next_after(begin_ms - 1)
    while moment is not None and moment < end_ms:
        found.append(moment // 1000)
        moment = times.next_after(moment)
    assert found == expected
    assert times.count(begin_ms, end_ms - 1) == len(expected)
    middle_ms = middle_s * 1000
    latest = times.latest(middle_ms)
    before = [moment_s for moment_s in expected if moment_s <= middle_s]
    if before:
        assert latest == before[-1] * 1000
    else:
        assert latest is None or latest < begin_ms


@settings(max_examples=times_factor(40), deadline=None)
@given(
    expressions | fixed_expressions,
    st.sampled_from(ODD) | st.sampled_from(ZONES),
    st.integers(1970, 2037),
    st.data(),
    st.sampled_from([None, *DstGap]),
    st.sampled_from([None, *DstFold]),
)
def test_moments_are_those_of_a_walk(
    expression: str, tz: str, year: int, data: st.DataObject, gap: DstGap | None, fold: DstFold | None
) -> None:
    check_near(expression, tz, data.draw(st.sampled_from(changes_in(tz, year))), gap, fold)


@pytest.mark.slow
@pytest.mark.drawn
@pytest.mark.parametrize("share", range(8))
def test_moments_are_those_of_a_walk_in_every_zone(share: int) -> None:
    for place, tz in enumerate(ZONES[share::8]):
        check_zone(tz, range(1970 + place % 7, 2038, 7))


def check_zone(tz: str, years: range) -> None:
    @settings(max_examples=times_factor(2), database=None, deadline=None)
    @given(expressions | fixed_expressions, st.sampled_from(years), st.data())
    def check(expression: str, year: int, data: st.DataObject) -> None:
        check_near(expression, tz, data.draw(st.sampled_from(changes_in(tz, year))), None, None)

    check()


@pytest.mark.parametrize("tz", ["Europe/Berlin", "Pacific/Apia", "America/St_Johns", "Australia/Lord_Howe"])
@given(expression=fixed_expressions, year=st.integers(1970, 2037))
@settings(max_examples=times_factor(8), deadline=None)
def test_a_fixed_time_comes_once_on_each_local_date(tz: str, expression: str, year: int) -> None:
    fields = fields_of(expression)
    times = CronTimes(fields, tz, DstGap.SHIFT, DstFold.FIRST)
    first = datetime(year, 1, 1, tzinfo=UTC).toordinal()
    for ordinal in range(first, first + 366):
        start_s = (ordinal - EPOCH_ORDINAL) * DAY_S
        is_left_out = any(
            c.at_s + c.before_s <= start_s and start_s + DAY_S <= c.at_s + c.after_s for c in changes(tz, ordinal)
        )
        each = len(fields.minutes) * len(fields.hours)
        count = len(times.on_date(ordinal))
        # Several times in one gap are all at its end.
        assert count == 0 if is_left_out else 1 <= count <= each, ordinal
        if not changes(tz, ordinal):
            assert count == each


celery_expressions = st.tuples(
    cron_field(0, 59), cron_field(0, 23), cron_field(1, 28), cron_field(1, 12), cron_field(0, 6)
)


@settings(max_examples=times_factor(60), deadline=None)
@given(celery_expressions, st.integers(0, 2_140_000_000))
def test_where_no_clock_is_changed_celery_agrees(fields: tuple[str, str, str, str, str], after_s: int) -> None:
    minute, hour, day, month, weekday = fields
    after = datetime.fromtimestamp(after_s, UTC)
    schedule = crontab(minute, hour, weekday, day, month, nowfun=lambda: after)
    schedule.tz = UTC
    last, delta, _ = schedule.remaining_delta(after, tz=UTC)
    expected = int((last + delta).timestamp() * 1000)
    assert next_after(Cron(" ".join(fields)), after_s * 1000) == expected


@given(
    st.tuples(
        st.one_of(fixed_field(0, 59), st.integers(5, 40).map(lambda step: f"*/{step}")),
        st.sampled_from(["0", "1", "2", "2,3", "*", "*/2", "23", "1-3"]),
    ),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Europe/Lisbon", "America/Havana"]),
    st.integers(1980, 2036),
    st.data(),
)
@settings(max_examples=times_factor(60), deadline=None)
def test_around_a_change_cronsim_agrees(fields: tuple[str, str], tz: str, year: int, data: st.DataObject) -> None:
    expression = f"{fields[0]} {fields[1]} * * *"
    middle_s = data.draw(st.sampled_from(changes_in(tz, year)))
    begin = datetime.fromtimestamp(middle_s - 2 * DAY_S, UTC).replace(second=0)
    expected: list[int] = []
    for moment in CronSim(expression, begin.astimezone(ZoneInfo(tz))):
        moment_s = int(moment.timestamp())
        if moment_s > middle_s + 2 * DAY_S:
            break
        if moment_s not in expected[-1:]:
            expected.append(moment_s)
    found = []
    trigger = Cron(expression, tz)
    moment_ms = next_after(trigger, int(begin.timestamp()) * 1000)
    while moment_ms is not None and moment_ms // 1000 <= middle_s + 2 * DAY_S:
        found.append(moment_ms // 1000)
        moment_ms = next_after(trigger, moment_ms)
    assert found == expected


@pytest.mark.parametrize(
    ("expression", "tz", "after", "following"),
    [
        # Celery 5.7 leaves out the second 02:00, and makes a gap of an hour.
        ("0 * * * *", "Europe/Berlin", "2026-10-25T00:00Z", ["2026-10-25T01:00Z", "2026-10-25T02:00Z"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:30Z", ["2026-10-25T01:00Z", "2026-10-25T01:30Z"]),
        # Celery 5.7 runs this one at 03:30.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T02:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T01:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        ("*/15 2 * * *", "Europe/Berlin", "2026-03-28T01:40Z", ["2026-03-28T01:45Z", "2026-03-30T00:00Z"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T21:00Z", ["2011-12-29T22:00Z", "2011-12-30T22:00Z"]),
        ("0 0 29 2 1", "UTC", "2025-01-01T00:00Z", ["2044-02-29T00:00Z", "2072-02-29T00:00Z"]),
        ("0 0 1 1 *", "UTC", "9999-01-01T00:00Z", []),
        ("0 9 * * fri-mon", "UTC", "2026-11-27T10:00Z", ["2026-11-28T09:00Z", "2026-11-29T09:00Z"]),
    ],
)  # fmt: skip
def test_days_that_have_been_got_wrong(expression: str, tz: str, after: str, following: list[str]) -> None:
    moment: int | None = at(after)
    for expected in following:
        assert moment is not None
        moment = next_after(Cron(expression, tz), moment)
        assert moment == at(expected)
    if not following:
        assert next_after(Cron(expression, tz), at(after)) is None


@settings(max_examples=times_factor(60), deadline=None)
@given(st.tuples(cron_field(0, 59), cron_field(0, 23), cron_field(1, 28), cron_field(1, 12), cron_field(0, 6)))
def test_what_is_written_reads_the_same(fields: tuple[str, ...]) -> None:
    read = fields_of(" ".join(fields))
    assert fields_of(str(read)) == read
    assert str(fields_of(str(read))) == str(read)


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("0 9-17 * * mon-FRI", "0 9-17 * * 1-5"),
        ("*/15 * * jan,jul *", "*/15 * * 1,7 *"),
        ("0  0 1,15 * 7", "0 0 1,15 * 0"),
        ("*/60 */24 * * *", "*/60 */24 * * *"),
        ("0 0 * * sat-7", "0 0 * * 0,6"),
        ("7,*/20 * * * *", "*/20,7 * * * *"),
        ("0 0 */2 january sunday", "0 0 */2 1 0"),
    ],
)
def test_expressions_are_written_in_one_form(expression: str, written: str) -> None:
    assert str(fields_of(expression)) == written


def test_ten_years_of_a_schedule_take_no_time() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    trigger = Cron("30 2 * * *", "Europe/Berlin")
    moment = next_after(trigger, int(begin.timestamp()) * 1000)
    count = 0
    end_ms = int((begin + timedelta(days=3652)).timestamp()) * 1000
    while moment is not None and moment < end_ms:
        count, moment = count + 1, next_after(trigger, moment)
    assert count == 3652
