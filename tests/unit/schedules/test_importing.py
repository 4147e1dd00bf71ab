"""The schedules of other schedulers, read from what these leave behind."""

from __future__ import annotations

import json
import os
import pickle
import shelve
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc, PersistentScheduler
from celery.schedules import crontab, schedule

from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.schedules.importing.celerybeat_schedule import read_shelf
from orchestrator.schedules.importing.crontab_file import read_crontab
from orchestrator.schedules.importing.django_celery_beat import read_dump
from orchestrator.schedules.importing.found import Found, FoundSchedule, LeftOut, UnreadableSource
from orchestrator.schedules.importing.redbeat import found_in

RAN = datetime(2026, 11, 29, 2, 30, 5, tzinfo=UTC)
RAN_MS = to_epoch_ms(RAN)


def by_name(found: Any) -> dict[str, Found]:
    return {one.name: one for one in found}


def test_the_shelve_file_of_celerys_beat_is_read(tmp_path: Path) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    app.conf.beat_schedule = {
        "nightly": {"task": "reconcile", "schedule": crontab("30", "2"), "args": [1], "options": {"queue": "q"}},
        "poll": {"task": "poll", "schedule": timedelta(seconds=30), "kwargs": {"feed": 7}},
        "often": {"task": "poll", "schedule": 5.0},
        "lazy": {"task": "poll", "schedule": 5.0, "args": [BeatLazyFunc(os.getpid)]},
    }
    path = str(tmp_path / "celerybeat-schedule")
    beat = PersistentScheduler(app, schedule_filename=path)
    for entry in beat.schedule.values():
        entry.last_run_at = RAN.astimezone(ZoneInfo("Europe/Berlin"))
    beat.close()
    found = by_name(read_shelf(path))
    nightly = found["nightly"]
    assert isinstance(nightly, FoundSchedule)
    assert (nightly.task, nightly.args, nightly.options) == ("reconcile", (1,), {"queue": "q"})
    assert (nightly.schedule, nightly.last_run_ms) == (crontab("30", "2"), RAN_MS)
    poll = found["poll"]
    assert isinstance(poll, FoundSchedule)
    assert (poll.schedule, poll.kwargs) == (schedule(30), {"feed": 7})
    lazy = found["lazy"]
    assert isinstance(lazy, LeftOut)
    assert "BeatLazyFunc" in lazy.why


class Bomb:
    """Does harm when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["BOMB"],)


def test_a_shelve_file_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "harm"))
    path = str(tmp_path / "celerybeat-schedule")
    with shelve.open(path) as shelf:
        shelf["entries"] = {"bad": Bomb(), "worse": [Bomb()]}
    assert all(isinstance(one, LeftOut) for one in read_shelf(path))
    assert not (tmp_path / "harm").exists()
    monkeypatch.setenv("BOMB", str(tmp_path / "harm"))
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "harm").exists()


def test_what_is_no_shelve_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with shelve.open(str(tmp_path / "empty")) as shelf:
        shelf["other"] = 1
    with shelve.open(str(tmp_path / "list")) as shelf:
        shelf["entries"] = [1]
    for name in ("text", "empty", "list", "nosuch"):
        with pytest.raises(UnreadableSource, match=name):
            list(read_shelf(tmp_path / name))


def rows(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    schedules = {
        "crontabschedule": {"minute": "30", "hour": "2", "day_of_week": "mon-fri", "timezone": "Europe/Berlin"},
        "intervalschedule": {"every": 5, "period": "minutes"},
        "clockedschedule": {"clocked_time": "2027-01-01T00:00:00Z"},
    }
    found = [{"model": f"django_celery_beat.{kind}", "pk": 1, "fields": fields} for kind, fields in schedules.items()]
    usual = {"task": "t", "args": "[]", "kwargs": "{}", "enabled": True, "last_run_at": None}
    return found + [
        {"model": "django_celery_beat.periodictask", "pk": number, "fields": {**usual, "name": f"p{number}", **task}}
        for number, task in enumerate(tasks)
    ]


def test_a_dump_of_django_celery_beat_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    dump = rows(
        {"crontab": 1, "args": "[1]", "queue": "q", "expire_seconds": 60, "last_run_at": RAN.isoformat()},
        {"interval": 1, "enabled": False, "start_time": "2026-12-01T00:00:00Z", "expires": "2027-12-01T00:00:00Z"},
        {"clocked": 1, "one_off": True, "headers": '{"a": 1}'},
        {"interval": 2},
        {"crontab": 1, "args": "{"},
        {},
    )
    path.write_text(json.dumps(dump))
    found = by_name(read_dump(path))
    assert found["p0"] == FoundSchedule(
        "p0", "t", (1,), {}, {"queue": "q", "expires": 60},
        when={"cron": "30 2 * * mon-fri", "tz": "Europe/Berlin"}, last_run_ms=RAN_MS,
    )  # fmt: skip
    paused = found["p1"]
    assert isinstance(paused, FoundSchedule)
    assert (paused.schedule, paused.is_enabled, sorted(paused.when)) == (timedelta(minutes=5), False, ["end", "start"])
    once = found["p2"]
    assert isinstance(once, FoundSchedule)
    assert once.when == {"at": datetime(2027, 1, 1, tzinfo=UTC), "max_runs": 1}
    assert {name for name, one in found.items() if isinstance(one, LeftOut)} == {
        "p3", "p4", "p5"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"model": 1}]', "\x00"])
def test_what_is_no_dump_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dump.json"
    path.write_text(text)
    with pytest.raises(UnreadableSource, match="dumpdata"):
        list(read_dump(path))


def redbeat(schedule: Any, **meta: Any) -> Found:
    definition = {
        "name": "nightly", "task": "t", "args": [1], "kwargs": {}, "options": {"queue": "q"},
        "schedule": schedule, "enabled": True,
    }  # fmt: skip
    return found_in("nightly", json.dumps(definition).encode(), json.dumps(meta).encode())


def test_a_schedule_of_redbeat_is_read() -> None:
    parts = {"minute": "30", "hour": 2, "day_of_week": "*", "day_of_month": "*", "month_of_year": "*"}
    ran = {
        "__type__": "datetime", "year": 2026, "month": 11, "day": 29, "hour": 3, "minute": 30, "second": 5,
        "microsecond": 0, "timezone": "Europe/Berlin",
    }  # fmt: skip
    found = redbeat({"__type__": "crontab", **parts}, last_run_at=ran, total_run_count=3)
    assert isinstance(found, FoundSchedule)
    assert (found.schedule, found.last_run_ms) == (crontab("30", 2), RAN_MS)
    assert (found.args, found.options) == ((1,), {"queue": "q"})
    found = redbeat({"__type__": "interval", "every": 5.0, "relative": False}, last_run_at={**ran, "timezone": 3600.0})
    assert isinstance(found, FoundSchedule)
    assert (found.schedule, found.last_run_ms) == (schedule(5), RAN_MS)


def test_what_redbeat_has_and_nobody_else_is_left_out() -> None:
    for stored in ({"__type__": "rrule", "freq": 1}, {"__type__": "crontab", "minute": "99"}, 5, None):
        assert isinstance(redbeat(stored), LeftOut)
    assert isinstance(found_in("gone", None, None), LeftOut)
    assert isinstance(found_in("bad", b"{", None), LeftOut)


CRONTAB = """
# nightly things
MAILTO=ops@example.com
0 4 * * * celery -A shop call app.early
CRON_TZ=Europe/Berlin
30 2 * * mon-fri /srv/bin/celery -A shop call app.reconcile --args='[1, "a"]' -k '{"full": true}' --queue q >> /log
@daily celery call app.reconcile
*/5 * * * * /usr/bin/rm -rf /tmp/x
0 0 13 * fri celery call app.unlucky
61 * * * * celery call app.never
* * * * *
"""


def test_a_crontab_with_celery_call_is_read(tmp_path: Path) -> None:
    path = tmp_path / "crontab"
    path.write_text(CRONTAB)
    found = by_name(read_crontab(path))
    assert found["app.early"] == FoundSchedule("app.early", "app.early", when={"cron": "0 4 * * *"})
    assert found["app.reconcile"] == FoundSchedule(
        "app.reconcile", "app.reconcile", (1, "a"), {"full": True}, {"queue": "q"},
        when={"cron": "30 2 * * mon-fri", "tz": "Europe/Berlin"},
    )  # fmt: skip
    assert found["app.reconcile-2"].name == "app.reconcile-2"
    why = {name: one.why for name, one in found.items() if isinstance(one, LeftOut)}
    assert why.keys() == {"line 8", "line 9", "line 10", "line 11"}
    assert "celery" in why["line 8"]
    assert "two schedules" in why["line 9"]
    assert "59 * * * *" in why["line 10"]
