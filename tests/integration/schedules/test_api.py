"""`orchestrator.schedules` over Redis and in eager mode: the same calls, the same rule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from celery import Celery

from orchestrator import InvalidSchedule, Orchestrator, ScheduleExists, UnknownAgent, UnknownSchedule, every, handles
from orchestrator.agents.agent import Agent
from orchestrator.agents.periodic import Fire
from orchestrator.core.errors import CallerError, InvalidPolicy, MessageTooLarge
from orchestrator.core.schedules.state import Fate
from tests.support.schedules_under_test import Ledgers, Reconcile, Schedules, scheduling_app

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["redis", "eager"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    """An app whose schedules are in Redis, or in memory."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else NO_REDIS
    made = scheduling_app(url)
    made.app.conf.task_always_eager = request.param == "eager"
    yield made
    made.app.close()


def test_schedules_are_a_mapping_of_handles(orchestrator: Orchestrator) -> None:
    schedules = orchestrator.schedules
    schedules.add("nightly", "ledgers", Reconcile(day=3), cron="30 2 * * *", tz="Europe/Berlin", overlap="skip")
    schedules.add("poll", orchestrator.app.tasks["scheduling.poll"].s(7), every_s=0.5)
    assert set(schedules) == {"nightly", "poll"}
    assert len(schedules) == 2
    assert "poll" in schedules
    assert "nothing" not in schedules
    info = schedules["nightly"].info()
    assert info.definition is not None
    assert info.definition.overlap == "skip"
    assert [info.next_at] == schedules["nightly"].preview(1)
    assert info.last_at is None
    assert {one.id for one in schedules.infos()} == {"nightly", "poll"}


def test_the_same_id_again_is_an_error_unless_it_is_to_replace_or_to_be_kept(orchestrator: Orchestrator) -> None:
    schedules = orchestrator.schedules
    schedules.add("poll", Ledgers, Reconcile(), every_s=10)
    with pytest.raises(ScheduleExists, match="poll"):
        schedules.add("poll", Ledgers, Reconcile(), every_s=20)
    schedules.add("poll", Ledgers, Reconcile(), every_s=20, if_exists="keep")
    assert _gap(schedules["poll"].preview(2)) == 10
    schedules.add("poll", Ledgers, Reconcile(), every_s=20, if_exists="replace")
    assert _gap(schedules["poll"].preview(2)) == 20


def test_an_update_of_something_else_keeps_the_next_time(orchestrator: Orchestrator) -> None:
    schedule = orchestrator.schedules.add("poll", Ledgers, Reconcile(), every_s=3600)
    (before,) = schedule.preview(1)
    schedule.update(overlap="skip", metadata={"team": "billing"})
    assert schedule.preview(1) == [before]
    definition = schedule.info().definition
    assert definition is not None
    assert definition.metadata == {"team": "billing"}
    schedule.update(cron="0 3 * * *")
    assert schedule.preview(1)[0].hour == 3


def test_pause_and_resume_skip_what_has_passed(orchestrator: Orchestrator) -> None:
    schedule = orchestrator.schedules.add("poll", Ledgers, Reconcile(), every_s=3600)
    assert schedule.pause("release")
    assert not schedule.pause("again")
    assert schedule.info().state.paused == "release"
    assert schedule.info().is_paused
    assert schedule.resume()
    assert not schedule.resume()
    assert not schedule.info().is_paused


def test_trigger_fires_now_and_leaves_the_plan(orchestrator: Orchestrator) -> None:
    schedule = orchestrator.schedules.add("poll", Ledgers, Reconcile(), every_s=3600)
    before = schedule.preview(1)
    delivery = schedule.trigger()
    assert schedule.preview(1) == before
    (entry,) = schedule.history()
    assert (entry.fate, entry.reason, entry.delivery) == (Fate.FIRED, "triggered", delivery)
    assert orchestrator.schedules.ledger() == {"due": 1, "fired": 1}


def test_backfill_fires_each_nominal_time_of_a_span(orchestrator: Orchestrator) -> None:
    schedule = orchestrator.schedules.add("hourly", Ledgers, Reconcile(), cron="0 * * * *")
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule.backfill(begin, begin + timedelta(hours=149)) == 150
    assert orchestrator.schedules.ledger() == {"due": 150, "fired": 150}
    assert {entry.reason for entry in schedule.history(150)} == {"backfilled"}
    with pytest.raises(InvalidPolicy, match="at most 10000"):
        schedule.backfill(begin, begin + timedelta(days=3650))


def test_remove(orchestrator: Orchestrator) -> None:
    schedule = orchestrator.schedules.add("poll", Ledgers, Reconcile(), every_s=10)
    assert schedule.remove()
    assert not schedule.remove()
    for use in (schedule.info, schedule.pause, schedule.resume, schedule.trigger, schedule.preview, schedule.update):
        with pytest.raises(UnknownSchedule, match="poll"):
            use()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cron": "61 * * * *"}, "minute"),
        ({"every_s": 0.05}, "every_s"),
        ({"every_s": 10, "jitter_s": 10}, "jitter_s"),
        ({"every_s": 10, "max_runs": 0}, "max_runs"),
        ({"at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001
        ({"cron": "0 3 * * *", "tz": "Europe/Berlinn"}, "Europe/Berlin"),
        ({"cron": "0 3 * * *", "tz": "localtime"}, "localtime"),
        ({"cron": "0 3 * * *", "tz": "posixrules"}, "posixrules"),
        ({"every_s": 10, "timeout_s": 10, "deadline_s": 5}, "at most deadline_s=5"),
        ({"every_s": 10, "last_run_ms": -1}, "last_run_ms"),
        ({"every_s": 10, "last_run_ms": 1.5}, "last_run_ms"),
        ({"every_s": 10, "last_run_ms": 10**20}, "last_run_ms"),
        ({}, "exactly one"),
    ],
)
def test_a_bad_option_is_named(orchestrator: Orchestrator, options: dict, named: str) -> None:
    with pytest.raises(InvalidSchedule, match=named):
        orchestrator.schedules.add("bad", Ledgers, Reconcile(), **options)
    assert len(orchestrator.schedules) == 0


def test_an_unknown_agent_is_refused_when_the_schedule_is_added(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownAgent, match="ledgers"):
        orchestrator.schedules.add("bad", "ledger", Reconcile(), every_s=10)


def test_an_id_that_cannot_be_one_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidSchedule, match="id="):
        orchestrator.schedules.add("a:b", Ledgers, Reconcile(), every_s=10)
    with pytest.raises(InvalidSchedule, match="id=5"):
        orchestrator.schedules[5].info()  # type: ignore[index]


def test_a_message_that_is_too_large_to_be_sent_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_MAX_MESSAGE_BYTES", "10000")
    orchestrator = scheduling_app(redis_url)
    orchestrator.schedules.add("small", Ledgers, Reconcile(), every_s=10, metadata={"note": "x"})
    with pytest.raises(MessageTooLarge):
        orchestrator.schedules.add("large", Ledgers, Reconcile(), every_s=10, metadata={"note": "x" * 10_000})
    assert list(orchestrator.schedules) == ["small"]


def test_more_schedules_than_allowed_are_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SCHEDULES_MOST", "2")
    orchestrator = scheduling_app(redis_url)
    for name in ("a", "b"):
        orchestrator.schedules.add(name, Ledgers, Reconcile(), every_s=10)
    with pytest.raises(InvalidSchedule, match="schedules_most"):
        orchestrator.schedules.add("c", Ledgers, Reconcile(), every_s=10)
    orchestrator.app.close()


def test_what_is_added_is_fired_with_its_policy(redis_url: str) -> None:
    made = Schedules(scheduling_app(redis_url))
    soon = datetime.fromtimestamp(made.now_ms() / 1000, UTC) - timedelta(seconds=1)
    made.orchestrator.schedules.add(
        "once", Ledgers, Reconcile(day=9), at=soon, timeout_s=5, metadata={"team": "billing"}
    )
    made.scheduler().tick()
    (message,) = made.messages()
    supervision = message["headers"]["orc"]
    assert supervision["timeout_s"] == 5
    assert supervision["metadata"]["team"] == "billing"
    made.app.close()


# -- eager mode


class Clock(Agent):
    """An agent with a periodic method."""

    name = "clock"
    fires: list[Fire] = []  # noqa: RUF012

    @every(10)
    def tick(self, fire: Fire) -> None:
        """Record it."""
        self.fires.append(fire)

    @handles(Reconcile)
    def reconcile(self, message: Reconcile) -> None:
        """Fail on demand."""
        if message.day == 13:
            raise ValueError("bad luck")


@pytest.fixture
def eager() -> Orchestrator:
    """An eager app with an agent that has a periodic method, and an entry of beat_schedule."""
    Clock.fires.clear()
    app = Celery("eager-schedules", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Clock)
    return orchestrator


def test_time_that_passes_fires_inline(eager: Orchestrator) -> None:
    assert eager.schedules.advance(35) == 3
    assert [fire.schedule for fire in Clock.fires] == ["clock.tick"] * 3
    gaps = [
        (later.scheduled_for - earlier.scheduled_for).total_seconds()
        for earlier, later in zip(Clock.fires, Clock.fires[1:], strict=False)
        if later.scheduled_for is not None and earlier.scheduled_for is not None
    ]
    assert gaps == [10, 10]


def test_ten_years_pass_in_a_test(eager: Orchestrator) -> None:
    eager.schedules.add("yearly", "clock", Reconcile(), cron="0 0 1 1 *")
    assert eager.schedules.advance(3653 * 86400, only=["yearly"]) == 10
    assert Clock.fires == []
    assert eager.schedules.advance(0) == 1, "as after an outage"
    assert Clock.fires[0].missed == 365 * 8640 * 10 + 3 * 8640 - 1


@pytest.mark.parametrize("seconds", ["3", -1, float("nan"), None, True, 1e12])
def test_only_a_number_of_seconds_passes(eager: Orchestrator, seconds: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"seconds=.* a number from 0 to"):
        eager.schedules.advance(seconds)


def test_time_passes_for_schedules_that_exist(eager: Orchestrator) -> None:
    with pytest.raises(UnknownSchedule, match=r"clock\.tick"):
        eager.schedules.advance(10, only=["clock.tock"])
    with pytest.raises(InvalidPolicy, match="a list of ids"):
        eager.schedules.advance(10, only="clock.tick")


def test_what_is_declared_is_neither_removed_nor_updated(eager: Orchestrator) -> None:
    eager.app.conf.beat_schedule = {"entry": {"task": "eager.noted", "schedule": 20}}
    for name, declarer in {"clock.tick": "method tick of agent 'clock'", "entry": "beat_schedule of app"}.items():
        schedule = eager.schedules[name]
        again = partial(eager.schedules.add, name, "clock", Reconcile(), every_s=1, if_exists="replace")
        for change in (schedule.remove, partial(schedule.update, every_s=1), again):
            with pytest.raises(CallerError, match=f"{name}.* declared by {declarer}.* allowed: pause"):
                change()
        assert schedule.pause()
        assert schedule.resume()
    assert set(eager.schedules) == {"clock.tick", "entry"}


def test_a_failure_pauses_its_schedule(eager: Orchestrator) -> None:
    eager.schedules.add("unlucky", "clock", Reconcile(day=13), every_s=10, pause_on_failure=True, on_error="ignore")
    eager.schedules.advance(60)
    info = eager.schedules["unlucky"].info()
    assert "was not handled" in info.state.paused
    assert info.counts.fired == 1


def test_entries_of_beat_schedule_fire_too(eager: Orchestrator) -> None:
    seen = []

    @eager.app.task(name="eager.noted", shared=False)
    def noted(value: str) -> None:
        seen.append(value)

    eager.app.conf.beat_schedule = {"entry": {"task": "eager.noted", "schedule": 20, "args": ("x",)}}
    eager.schedules.advance(45)
    assert seen == ["x", "x"]


def test_only_eager_mode_lets_time_pass(redis_url: str) -> None:
    orchestrator = scheduling_app(redis_url)
    with pytest.raises(CallerError, match="eager mode"):
        orchestrator.schedules.advance(1)
    orchestrator.app.close()


def _gap(times: list[datetime]) -> float:
    return (times[1] - times[0]).total_seconds()
