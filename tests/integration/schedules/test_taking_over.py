"""Schedules of RedBeat and of Celery's own beat, taken over into Redis: nothing twice, nothing missed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.beat import PersistentScheduler

from orchestrator import Orchestrator
from orchestrator.cli.schedules.group import schedules
from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.schedules.declared.static_schedules import checked, owners_of, with_names
from tests.support.command_line import invoke
from tests.support.schedules_under_test import Schedules, scheduling_app, settles

ENTRY = {"task": "scheduling.poll", "schedule": 300.0, "args": [1]}


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = scheduling_app(redis_url)
    yield made
    made.app.close()


def taken(orchestrator: Orchestrator, *arguments: str) -> dict[str, str]:
    result = invoke(orchestrator.app, schedules, "import", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return {one["name"]: one["action"] for one in json.loads(result.stdout)["schedules"]}


def redbeat_moment(at: datetime) -> dict[str, Any]:
    names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    return {"__type__": "datetime", "timezone": "UTC", **{name: getattr(at, name) for name in names}}


def test_redbeats_schedules_go_on_from_their_last_run(orchestrator: Orchestrator, redis_url: str) -> None:
    under_test = Schedules(orchestrator)
    now = datetime.now(UTC)
    for name, ago_s in (("due", 1000), ("fired", 100)):
        definition = {**ENTRY, "name": name, "schedule": {"__type__": "interval", "every": 300.0, "relative": False}}
        meta = {"last_run_at": redbeat_moment(now - timedelta(seconds=ago_s))}
        under_test.redis.hset(
            f"redbeat:{name}", mapping={"definition": json.dumps(definition), "meta": json.dumps(meta)}
        )
        under_test.redis.zadd("redbeat::schedule", {f"redbeat:{name}": 0})
    assert taken(orchestrator, "--from", "redbeat", "--dry-run") == {"due": "added", "fired": "added"}
    assert len(orchestrator.schedules) == 0
    assert taken(orchestrator, "--from", "redbeat", "--url", redis_url) == {"due": "added", "fired": "added"}
    assert taken(orchestrator, "--from", "redbeat") == {"due": "exists", "fired": "exists"}
    scheduler = under_test.scheduler()
    assert settles(scheduler, lambda: under_test.ledger().get("fired") == 1)
    scheduler.tick()
    # What was due three times since is one fire; what was fired is not fired again.
    assert under_test.ledger() == {"due": 3, "fired": 1, "coalesced": 2}
    (at,) = orchestrator.schedules["fired"].preview(1)
    assert abs((at - now).total_seconds() - 200) < 1


def test_a_beat_that_declares_an_imported_entry_keeps_its_next_time(orchestrator: Orchestrator, tmp_path: Path) -> None:
    app = orchestrator.app
    app.conf.beat_schedule = {"a: poll": ENTRY}
    path = str(tmp_path / "celerybeat-schedule")
    beat = PersistentScheduler(app, schedule_filename=path)
    ran = datetime.now(UTC) - timedelta(seconds=100)
    beat.schedule["a: poll"].last_run_at = ran
    beat.schedule.pop("celery.backend_cleanup", None)
    beat.close()
    assert taken(orchestrator, "--from", "celerybeat-schedule", path) == {"a: poll": "added"}
    before = orchestrator.schedules.get_info("a: poll")
    assert before.state.next_ms == to_epoch_ms(ran) + 300_000
    (static,) = checked(app, with_names(app.conf.beat_schedule, app))
    orchestrator.schedules._backend().add(static.definition, owners_of(app.main)[0], "replace", None)
    after = orchestrator.schedules.get_info("a: poll")
    assert (after.state.next_ms, after.owner, before.owner) == (before.state.next_ms, app.main, "")
