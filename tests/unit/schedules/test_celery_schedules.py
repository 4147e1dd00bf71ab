"""Celery's schedule objects as triggers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedule, solar

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, SteppedTimes
from orchestrator.schedules.declared.celery_schedules import next_after_of, trigger_of
from orchestrator.schedules.declared.static_schedules import checked, with_names

APP = Celery("shop", set_as_current=False)
APP.conf.timezone = "Europe/Berlin"


@pytest.mark.parametrize(
    ("value", "trigger"),
    [
        (30, Interval(30_000)),
        (0.5, Interval(500)),
        (timedelta(minutes=5), Interval(300_000)),
        (schedule(timedelta(hours=1)), Interval(3_600_000)),
        (crontab(), Cron("* * * * *", "Europe/Berlin")),
        (crontab(minute=30, hour=2), Cron("30 2 * * *", "Europe/Berlin")),
        (crontab("0, 30", [3, 5], "mon-fri", "1", {6}), Cron("0,30 3,5 1 6 mon-fri", "Europe/Berlin")),
        (crontab(minute="*/70"), Cron("*/70 * * * *", "Europe/Berlin")),
    ],
)
def test_usual_schedules_become_triggers(value: Any, trigger: Any) -> None:
    assert trigger_of(APP, value) == (trigger, None)


def test_the_zone_is_the_apps_unless_the_crontab_has_one() -> None:
    app = Celery("utc", set_as_current=False)
    assert trigger_of(app, crontab()) == (Cron("* * * * *", "UTC"), None)
    app.conf.update(timezone="America/New_York")
    assert trigger_of(Celery("x", set_as_current=False, changes={"timezone": "Asia/Tokyo"}), crontab())[0] == Cron(
        "* * * * *", "Asia/Tokyo"
    )


@pytest.mark.parametrize("value", [None, "30", True, object(), 0, -5, float("nan"), timedelta(0), schedule(0.01)])
def test_what_is_no_schedule_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSchedule, match="nightly"):
        trigger_of(APP, value, "nightly")


class EverySecondMinute(BaseSchedule):
    """An app's own class."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        minutes = int(last_run_at.timestamp()) // 120 + 1
        now: datetime = self.now()
        return datetime.fromtimestamp(minutes * 120, UTC) - now


def test_an_apps_own_class_is_asked_for_its_next_time() -> None:
    trigger, next_after = trigger_of(APP, EverySecondMinute(), "own")
    assert isinstance(trigger, Foreign)
    assert trigger.kind.endswith("EverySecondMinute")
    assert not trigger.arguments
    assert next_after is not None
    times = SteppedTimes(next_after)
    assert times.next_after(7_000) == 120_000
    assert times.latest(500_000, 7_000) == 480_000
    assert times.count(120_000, 480_000) == 4
    assert next_after_of(APP, trigger) is None


def test_a_class_that_is_always_due_still_advances() -> None:
    class Always(BaseSchedule):
        def remaining_estimate(self, last_run_at: datetime) -> timedelta:
            return timedelta(0)

    _, next_after = trigger_of(APP, Always())
    assert next_after is not None
    assert SteppedTimes(next_after).next_after(5) == 105


def test_a_class_that_only_says_whether_it_is_due_is_asked_that() -> None:
    class Asked(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
            return False, 30.0

    _, next_after = trigger_of(APP, Asked())
    assert next_after is not None
    assert next_after(1000) == 31_000


def test_a_relative_interval_is_left_to_celery() -> None:
    trigger, next_after = trigger_of(APP, schedule(timedelta(hours=1), relative=True))
    assert isinstance(trigger, Foreign)
    assert next_after is not None
    assert next_after(1_800_000) == 3_600_000


def test_a_solar_event_is_rebuilt_in_any_process() -> None:
    trigger, next_after = trigger_of(APP, solar("sunset", -37.8, 144.9))
    assert isinstance(trigger, Foreign)
    assert (trigger.kind, trigger.arguments) == ("solar", ("sunset", -37.8, 144.9))
    again = next_after_of(APP, trigger)
    assert next_after is not None
    assert again is not None
    assert again(10**12) == next_after(10**12)


def test_arguments_of_a_solar_event_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidSchedule, match="noon"):
        next_after_of(APP, Foreign("solar", "", ("noon", 1, 2)))


def test_all_bad_entries_are_named_at_once_with_their_keys() -> None:
    entries = {
        "words": {"task": "t", "schedule": "every day"},
        "misspelt": {"tsk": "t", "schedule": 30, "optionz": {"queue": "q"}},
        "negative": {"task": "t", "schedule": -3},
        "text": "t",
        "empty": {},
        "good": {"task": "t", "schedule": 30},
    }
    with pytest.raises(InvalidSchedule) as refused:
        with_names(entries, Celery("entries", set_as_current=False))
    found = {fault.field: fault.nearest for fault in refused.value.faults}
    assert found == {
        "beat_schedule['words'].schedule": "",
        "beat_schedule['misspelt'].tsk": "task",
        "beat_schedule['misspelt'].optionz": "options",
        "beat_schedule['negative'].schedule": "",
        "beat_schedule['text']": "",
        "beat_schedule['empty'].schedule": "",
        "beat_schedule['empty'].task": "",
    }
    assert "allowed: the keys task, schedule, args" in str(refused.value)


def test_entries_of_other_types_are_refused_each_by_its_name() -> None:
    """Otherwise one of them would stop every pass of a worker in beat's place, and with it all schedules."""
    entries: Any = {
        "number": {"task": "t", "schedule": 30, "args": 5},
        "text": {"task": "t", "schedule": 30, "args": "abc"},
        "list": {"task": "t", "schedule": 30, "kwargs": [1]},
        "options": {"task": "t", "schedule": 30, "options": "queue"},
        "made": ScheduleEntry("made", "t", schedule=schedule(30), args=5, app=APP),
        7: {"task": "t", "schedule": 30},
    }
    with pytest.raises(InvalidSchedule) as refused:
        checked(APP, with_names({**entries, "empty": {}}, APP))
    assert {fault.field for fault in refused.value.faults} == {
        "beat_schedule['number'].args",
        "beat_schedule['text'].args",
        "beat_schedule['list'].kwargs",
        "beat_schedule['options'].options",
        "beat_schedule['made'].args",
        "beat_schedule[7]",
        "beat_schedule['empty'].schedule",
        "beat_schedule['empty'].task",
    }
    with pytest.raises(InvalidSchedule, match=r"beat_schedule=\[1\].*a dict of entries"):
        with_names([1], APP)
