"""Keys of the schedules that Redis evicts: nothing stops without a word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.schedules.beat import OrchestratorScheduler
from tests.support.schedules_under_test import Schedules, scheduling_app


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, and an app without ``celery.backend_cleanup``."""
    made = Schedules(scheduling_app(redis_url))
    made.app.conf.result_expires = None
    made.app.conf.beat_schedule = {"poll": {"task": "scheduling.poll", "schedule": 60}}
    yield made
    made.app.close()


@pytest.fixture
def beat(schedules: Schedules) -> Iterator[OrchestratorScheduler]:
    """A beat that has looked twice."""
    scheduler = OrchestratorScheduler(schedules.app)
    scheduler.max_interval = 0.01
    _look(scheduler, 2)
    yield scheduler
    scheduler.close()


def _look(beat: OrchestratorScheduler, times: int = 3) -> None:
    for _ in range(times):
        beat.tick()


def test_an_evicted_set_of_due_times_is_noticed_and_made_anew(
    schedules: Schedules, beat: OrchestratorScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    schedules.declare("nightly", due_s=-1)
    schedules.declare("paused", due_s=-1)
    schedules.orchestrator.schedules["paused"].pause()
    _look(beat)
    before = dict(schedules.redis.zrange(schedules.keys.schedules_due, 0, -1, withscores=True))
    assert set(before) == {b"nightly", b"poll"}
    schedules.redis.delete(schedules.keys.schedules_due)
    _look(beat)
    assert dict(schedules.redis.zrange(schedules.keys.schedules_due, 0, -1, withscores=True)) == before
    assert "schedule nightly was in no set of what is due, and is again; was the set evicted?" in caplog.text
    assert "paused was in no set" not in caplog.text


def test_an_evicted_set_is_noticed_by_the_scheduler_that_takes_over(
    schedules: Schedules, beat: OrchestratorScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    beat.close()
    schedules.redis.delete(schedules.keys.schedules_due)
    other = OrchestratorScheduler(schedules.app)
    other.max_interval = 0.01
    _look(other)
    other.close()
    assert schedules.redis.zscore(schedules.keys.schedules_due, "poll")
    assert "schedule poll was in no set" in caplog.text


def test_evicted_definitions_are_named_when_they_are_due(
    schedules: Schedules, beat: OrchestratorScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    schedules.declare("nightly", due_s=1)
    schedules.redis.delete(schedules.keys.schedules)
    _look(beat)
    (info,) = schedules.orchestrator.schedules.infos()
    assert (info.id, info.definition) == ("nightly", None)
    assert "was it evicted?" in info.broken
    assert "schedule nightly is broken and set aside" in caplog.text


def test_an_evicted_state_is_named(
    schedules: Schedules, beat: OrchestratorScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    schedules.declare("nightly", due_s=-60)
    schedules.declare("now", due_s=1)
    schedules.redis.delete(schedules.keys.schedule("nightly"), schedules.keys.schedule("now"))
    _look(beat)
    assert "schedule now is broken and set aside" in caplog.text
    # With the set it is found before its time comes.
    schedules.redis.delete(schedules.keys.schedules_due)
    _look(beat)
    broken = {info.id: info.broken for info in schedules.orchestrator.schedules.infos() if info.broken}
    assert set(broken) == {"nightly", "now"}
    assert "was it evicted?" in broken["nightly"]


def test_a_beat_warns_of_a_redis_that_evicts(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    made = Schedules(scheduling_app(redis_url))
    made.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        scheduler = OrchestratorScheduler(scheduling_app(redis_url).app)
        scheduler.max_interval = 0.01
        scheduler.tick()
        scheduler.close()
    finally:
        made.redis.config_set("maxmemory-policy", "noeviction")
        made.app.close()
    assert "maxmemory-policy=allkeys-lru deletes mailboxes" in caplog.text
