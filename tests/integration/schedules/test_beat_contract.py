"""What Celery asks of a scheduler class (``-S``), and what becomes of the entries of ``beat_schedule``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc, PersistentScheduler, ScheduleEntry, Service
from celery.exceptions import ImproperlyConfigured
from celery.schedules import BaseSchedule, crontab, schedstate

from orchestrator import InvalidSchedule, Orchestrator, Retry
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.housekeeping import HOUSEKEEPING_MESSAGE, HOUSEKEEPING_QUEUE
from orchestrator.core.keys import GROUP
from orchestrator.core.schedules.state import delivery_id_of
from orchestrator.core.settings import load_settings
from orchestrator.schedules.beat import OrchestratorScheduler
from tests.support.schedules_under_test import Schedules, scheduling_app


class EveryMinute(BaseSchedule):
    """A schedule class of an app's own."""

    def is_due(self, last_run_at: datetime) -> Any:
        """Due at each full minute after the last run."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        return schedstate(left <= 0, max(left, 0) or 60)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """What is left until the next full minute after the last run."""
        following = last_run_at.replace(second=0, microsecond=0) + timedelta(minutes=1)
        left: timedelta = following - self.now()
        return left


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, and an app."""
    made = Schedules(scheduling_app(redis_url))
    # Without `celery.backend_cleanup`.
    made.app.conf.result_expires = None
    yield made
    made.app.close()


def entry(**more: Any) -> dict[str, Any]:
    """An entry of ``beat_schedule``."""
    return {"task": "scheduling.poll", "schedule": 60, "args": (7,), **more}


def beat(schedules: Schedules, **entries: Any) -> OrchestratorScheduler:
    """A scheduler as Celery's service makes it."""
    schedules.app.conf.beat_schedule = entries
    scheduler = Service(schedules.app, scheduler_cls=schedules.app.conf.beat_scheduler).get_scheduler()
    assert isinstance(scheduler, OrchestratorScheduler)
    scheduler.max_interval = 0.01
    return scheduler


def test_it_is_the_default_where_redis_is_the_broker_and_what_the_user_sets_wins(redis_url: str) -> None:
    app = scheduling_app(redis_url).app
    assert app.conf.beat_scheduler == "orchestrator.schedules.beat:OrchestratorScheduler"
    app.conf.beat_scheduler = "celery.beat:PersistentScheduler"
    assert app.conf.beat_scheduler == "celery.beat:PersistentScheduler"
    other = Celery("on-rabbit", set_as_current=False, broker="amqp://guest@127.0.0.1:1//")
    Orchestrator(other, load_settings())
    assert other.conf.beat_scheduler == "celery.beat:PersistentScheduler"


def test_the_alias_finds_it(schedules: Schedules) -> None:
    service = Service(schedules.app, scheduler_cls="orchestrator")
    assert isinstance(service.get_scheduler(lazy=True), OrchestratorScheduler)
    assert not issubclass(OrchestratorScheduler, PersistentScheduler)


def test_a_lazy_one_declares_nothing(schedules: Schedules) -> None:
    schedules.app.conf.beat_schedule = {"poll": entry()}
    scheduler = Service(schedules.app, scheduler_cls=schedules.app.conf.beat_scheduler).get_scheduler(lazy=True)
    assert scheduler.info == "    . db -> Redis, with 1 entry of beat_schedule"
    scheduler.close()
    assert schedules.redis.keys("orc:schedule*") == []


def test_the_default_entries_are_installed(redis_url: str) -> None:
    made = Schedules(scheduling_app(redis_url))
    scheduler = beat(made, poll=entry())
    assert set(scheduler.schedule) == {"poll", "celery.backend_cleanup"}
    scheduler.tick()
    assert b"celery.backend_cleanup" in made.redis.hkeys(made.keys.schedules)
    scheduler.close()
    made.app.close()


def test_a_tick_declares_the_entries_and_waits_no_longer_than_the_interval(schedules: Schedules) -> None:
    scheduler = beat(schedules, poll=entry(), nightly=entry(schedule=crontab(hour="3", minute="0")))
    assert scheduler.tick() == 0
    assert set(schedules.redis.hkeys(schedules.keys.schedules)) == {b"poll", b"nightly"}
    assert schedules.state("poll")["o"] == "s:scheduling"
    scheduler.sync()
    scheduler.close()
    scheduler.close()


def test_a_restart_keeps_the_anchor_of_an_interval(schedules: Schedules) -> None:
    first = beat(schedules, poll=entry())
    first.tick()
    before = schedules.state("poll")
    first.close()
    second = beat(schedules, poll=entry())
    second.tick()
    assert schedules.state("poll") == before
    second.close()


def test_what_is_added_while_it_runs_is_declared(schedules: Schedules) -> None:
    scheduler = beat(schedules, poll=entry())
    scheduler.tick()
    scheduler.add(name="later", task="scheduling.poll", schedule=timedelta(seconds=30))
    scheduler.tick()
    assert b"later" in schedules.redis.hkeys(schedules.keys.schedules)
    scheduler.merge_inplace({"other": entry()})
    scheduler.tick()
    scheduler._service._duties.__self__._retire_at = 0.0  # type: ignore[union-attr]
    scheduler.tick()
    assert set(schedules.redis.hkeys(schedules.keys.schedules)) == {b"other"}
    scheduler.close()


def test_an_entry_lives_while_a_beat_declares_it(schedules: Schedules) -> None:
    old = beat(schedules, both=entry(), old=entry())
    old.tick()
    new = beat(schedules, both=entry(), new=entry())
    new.tick()
    scheduling = schedules.orchestrator.runtime.redis.scheduling.schedules
    assert scheduling.retire("s:scheduling", 100) == []
    old.close()
    assert scheduling.retire("s:scheduling", 100) == ["old"]
    new.close()
    assert scheduling.retire("s:scheduling", 100) == [], "nobody knows what is declared"
    assert set(schedules.redis.hkeys(schedules.keys.schedules)) == {b"both", b"new"}


def test_an_entrys_message_is_the_one_that_celery_would_send(schedules: Schedules) -> None:
    scheduler = beat(schedules, poll=entry(kwargs={"number": 1}, args=(), options={"expires": 600, "priority": 0}))
    scheduler.tick()
    _make_due(schedules, "poll")
    scheduler.tick()
    (message,) = schedules.messages("celery")
    headers = message["headers"]
    assert headers["task"] == "scheduling.poll"
    assert headers["celery_beat_task"] is True
    assert headers["expires"] is not None
    assert headers["kwargsrepr"] == "{'number': 1}"
    assert headers["scheduled_for"].endswith("Z")
    scheduler.close()


SUPERVISED = {"retry": Retry(7), "timeout_s": 30, "on_error": "ignore", "metadata": {"tenant": "acme"}}


def test_an_entry_may_ask_for_a_supervised_send(schedules: Schedules) -> None:
    lazy = entry(args=(BeatLazyFunc(lambda: 8),), options={**SUPERVISED, "queue": "celery"})
    scheduler = beat(schedules, plain=entry(), asks=entry(options={**SUPERVISED, "headers": {"x": "1"}}), lazy=lazy)
    scheduler.tick()
    for name in ("plain", "asks", "lazy"):
        _make_due(schedules, name, bound=name == "lazy")
    scheduler.tick()
    by_id = {message["headers"]["id"]: message["headers"] for message in schedules.messages("celery")}
    plain, asks, made = (by_id[delivery_id_of(n, _fired_at(schedules, n))] for n in ("plain", "asks", "lazy"))
    assert plain["celery_beat_task"] is True
    assert "orc" not in plain
    assert (asks["x"], made["argsrepr"]) == ("1", "[8]")
    for headers in (asks, made):
        assert headers["celery_beat_task"] is True
        assert headers["scheduled_for"].endswith("Z")
        supervision = Supervision.from_wire(headers["orc"])
        assert supervision.retry.max_retries == 7
        assert (supervision.timeout_s, supervision.on_error) == (30, "ignore")
        assert supervision.metadata["tenant"] == "acme"
        assert supervision.metadata["scheduled_for"] == headers["scheduled_for"]
    scheduler.close()


def test_celerys_own_options_ask_for_no_supervision(schedules: Schedules) -> None:
    options = {"retry": True, "retry_policy": {"max_retries": 1}, "priority": 3, "soft_time_limit": 5, "anything": 1}
    scheduler = beat(schedules, poll=entry(options=options))
    scheduler.tick()
    _make_due(schedules, "poll")
    scheduler.tick()
    stream = schedules.keys.stream("celery", "3")
    ((_, fields),) = schedules.redis.xrange(stream)
    assert b'"orc"' not in fields[b"m"]
    scheduler.close()


def test_options_of_a_supervised_send_are_checked_and_misspelt_ones_named(schedules: Schedules) -> None:
    bad = {
        "spelt": entry(options={"timout_s": 5}),
        "again": entry(options={"timeout_s": 5, "on_eror": "ignore"}),
        "value": entry(options={"timeout_s": -1, "retry": 3}),
        "both": entry(options={"timeout_s": 9, "deadline_s": 3}),
        "agent": {"task": "ledgers.Reconcile", "schedule": 60, "args": ({},), "options": {"timeout_s": 5}},
    }
    wanted = {
        "spelt": "options.timout_s=5 is not allowed; .*did you mean 'timeout_s'",
        "again": "options.on_eror=.*did you mean 'on_error'",
        "value": "(?s)options.retry=3 is not allowed.*options.timeout_s=-1",
        "both": "at most deadline_s=3",
        "agent": r"beat_schedule\['agent'\].options: ledgers.Reconcile is an agent's",
    }
    for name, options in bad.items():
        with pytest.raises(InvalidSchedule, match=wanted[name]):
            beat(schedules, **{name: options})


def test_a_task_that_cannot_be_supervised_says_so(schedules: Schedules) -> None:
    @schedules.app.task(name="scheduling.early", shared=False, acks_late=False)
    def early() -> None:
        """Acknowledge early."""

    with pytest.raises(InvalidSchedule, match=r"beat_schedule\['early'\].options: acks_late=False"):
        beat(schedules, early={"task": "scheduling.early", "schedule": 60, "options": {"timeout_s": 5}})


def test_an_entry_for_an_agent_is_supervised_by_its_policy(schedules: Schedules) -> None:
    scheduler = beat(schedules, reconcile={"task": "ledgers.Reconcile", "schedule": 60, "args": ({"day": 3},)})
    scheduler.tick()
    _make_due(schedules, "reconcile")
    scheduler.tick()
    (message,) = schedules.messages("ledgers")
    assert message["headers"]["orc"]["agent"] == "ledgers"
    assert message["headers"]["orc"]["metadata"]["schedule"] == "reconcile"
    scheduler.close()


def test_lazy_arguments_are_made_at_each_fire_by_those_that_declare_them(schedules: Schedules) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return len(made)

    scheduler = beat(schedules, lazy=entry(args=(BeatLazyFunc(make),)))
    scheduler.tick()
    assert schedules.redis.zcard(schedules.keys.schedules_due) == 0
    _make_due(schedules, "lazy", bound=True)
    schedules.scheduler("stranger").tick()
    assert schedules.messages("celery") == [], "only who declares it may fire it"
    scheduler.tick()
    (message,) = schedules.messages("celery")
    assert message["headers"]["argsrepr"] == "[1]"
    assert made == [0]
    scheduler.close()


def test_a_lazy_argument_that_raises_stops_no_other_entry(schedules: Schedules) -> None:
    def fail() -> int:
        raise ValueError("no argument today")

    scheduler = beat(schedules, lazy=entry(args=(BeatLazyFunc(fail),)), poll=entry())
    scheduler.tick()
    _make_due(schedules, "lazy", bound=True)
    _make_due(schedules, "poll")
    scheduler.tick()
    assert len(schedules.messages("celery")) == 1
    assert schedules.ledger() == {"due": 1, "fired": 1}
    scheduler.close()


def test_a_schedule_class_of_the_apps_own(schedules: Schedules) -> None:
    scheduler = beat(schedules, own=entry(schedule=EveryMinute(app=schedules.app)))
    scheduler.tick()
    assert int(schedules.state("own")["n"]) % 60_000 == 0
    _make_due(schedules, "own", bound=True, by_ms=60_000)
    scheduler.tick()
    assert len(schedules.messages("celery")) == 1
    assert int(schedules.state("own")["n"]) > schedules.now_ms()
    scheduler.close()


def test_entries_that_cannot_be_schedules_are_all_named(schedules: Schedules) -> None:
    with pytest.raises(InvalidSchedule, match=r"(?s)(?=.*beat_schedule\['fast'\])(?=.*beat_schedule\['none'\])"):
        beat(schedules, fast=entry(schedule=0.01), none=entry(schedule=None), good=entry())


def test_an_app_without_an_orchestrator_is_told_what_to_do(redis_url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Orchestrator\(app\)"):
        OrchestratorScheduler(Celery("plain", broker=redis_url, set_as_current=False))


def test_the_beat_with_the_turn_starts_housekeeping(schedules: Schedules) -> None:
    one, other = beat(schedules, poll=entry()), beat(schedules, poll=entry())
    for scheduler in (one, other, one):
        scheduler.tick()
        scheduler._service._firing.housekeeping._due_at = 0.0  # type: ignore[union-attr]
    (first,) = schedules.messages(HOUSEKEEPING_QUEUE)
    assert first["headers"]["task"] == HOUSEKEEPING_MESSAGE
    assert not {"expires", "eta", "expiration"} & {*first["headers"], *first["properties"]}
    # One waits at most; what a worker has does not wait.
    stream = schedules.keys.stream(HOUSEKEEPING_QUEUE, "0")
    schedules.redis.xgroup_create(stream, GROUP, "0")
    schedules.redis.xreadgroup(GROUP, "manager", {stream: ">"})
    one.tick()
    second = schedules.messages(HOUSEKEEPING_QUEUE)[1]
    assert second["headers"]["id"] != first["headers"]["id"]
    assert second["properties"]["delivery_tag"] != first["properties"]["delivery_tag"]
    one.tick()
    row = schedules.orchestrator.housekeeping_ledger()
    assert (row.accepted, row.pending, row.balanced) == (2, 2, True)
    assert list(schedules.orchestrator.schedules) == ["poll"]
    assert schedules.orchestrator.schedules.ledger() == {}
    one.close()
    other.close()


def test_a_mailbox_of_the_manager_that_is_none_stops_no_schedule(schedules: Schedules) -> None:
    schedules.redis.set(schedules.keys.stream(HOUSEKEEPING_QUEUE, "0"), "x")
    scheduler = beat(schedules, poll=entry())
    scheduler.tick()
    _make_due(schedules, "poll")
    scheduler.tick()
    assert len(schedules.messages("celery")) == 1
    scheduler.close()


def test_an_entry_object_is_an_entry(schedules: Schedules) -> None:
    scheduler = beat(schedules)
    one = ScheduleEntry(name="one", task="scheduling.poll", schedule=30, app=schedules.app)
    scheduler.update_from_dict({"one": one})
    scheduler.tick()
    assert b"one" in schedules.redis.hkeys(schedules.keys.schedules)
    scheduler.close()


def _fired_at(schedules: Schedules, name: str) -> int:
    return next(int(entry["n"]) for entry in schedules.history() if entry["s"] == name)


def _make_due(schedules: Schedules, name: str, *, bound: bool = False, by_ms: int = 0) -> None:
    """Its next time came a moment ago."""
    state, now = schedules.keys.schedule(name), schedules.now_ms()
    shift = by_ms or int(schedules.state(name)["n"]) - now + 10
    for field in ("n", "a"):
        schedules.redis.hincrby(state, field, -shift)
    zset = schedules.keys.schedules_bound if bound else schedules.keys.schedules_due
    schedules.redis.zadd(zset, {name: now - 10})
