"""The loop of a scheduler: it sleeps until something is due or changes, and says what Redis does to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator.core.errors import CallerError
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.embedded import EmbeddedServer
from orchestrator.schedules.firing.fire_writer import FireWriter
from orchestrator.schedules.firing.service import ScheduleService
from orchestrator.telemetry import Event, attach, detach, events
from tests.support.eventually import eventually
from tests.support.schedules_under_test import Ledgers, Reconcile, Schedules, scheduling_app
from tests.support.timing import least_s


@pytest.fixture
def schedules(counted_url: str) -> Iterator[Schedules]:
    """An empty Redis, with an app that knows an agent and a task."""
    made = Schedules(scheduling_app(counted_url))
    yield made
    made.app.close()


@pytest.fixture
def emitted() -> Iterator[list[Event]]:
    """The events of this process."""
    seen: list[Event] = []
    attach(seen.append)
    yield seen
    detach(seen.append)


@pytest.fixture
def running(schedules: Schedules) -> Iterator[ScheduleService]:
    """A scheduler that runs in a thread, and has the turn."""
    service = schedules.scheduler()
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    eventually(lambda: service.is_mine)
    yield service
    service.stop()
    thread.join(timeout=5)
    service.close()


@pytest.mark.usefixtures("running")
def test_what_is_added_or_changed_takes_effect_at_once(schedules: Schedules) -> None:
    api = schedules.orchestrator.schedules
    schedules.declare("far", due_s=-3600)
    eventually(lambda: schedules.redis.pubsub_numsub(schedules.keys.schedules_bell)[0][1] == 1)
    days = iter((3, 4, 5))

    def add() -> None:
        day = next(days)
        api.add("soon", Ledgers, Reconcile(day=day), every_s=0.1)
        eventually(lambda: any(str(day) in message["headers"]["argsrepr"] for message in schedules.messages()), 5)
        api["soon"].remove()

    # A tenth of a second is its interval; a sleeping scheduler would look a second later.
    assert least_s(add) < 0.8
    api.add("late", Ledgers, Reconcile(day=2), every_s=3600)
    api["late"].update(every_s=0.1)
    eventually(lambda: any("2" in message["headers"]["argsrepr"] for message in schedules.messages()), 5)


@pytest.mark.usefixtures("running")
def test_an_idle_scheduler_asks_once_a_second(schedules: Schedules) -> None:
    schedules.declare("far", due_s=-3600)
    # Its message is prepared, which declares the mailbox.
    eventually(lambda: schedules.redis.sismember(schedules.keys.queues, "ledgers"))
    calls = _script_calls(schedules.redis)
    began = monotonic()
    eventually(lambda: _script_calls(schedules.redis) >= calls + 3, 10)
    assert monotonic() - began > 1.5


def test_the_first_fire_finds_its_message_prepared(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    make = FireWriter._make_kind

    def counted(writer: FireWriter, definition: ScheduleDefinition, delivery: str) -> Any:
        written.append(definition.id)
        return make(writer, definition, delivery)

    monkeypatch.setattr(FireWriter, "_make_kind", counted)
    service = schedules.scheduler()
    schedules.declare("soon", due_s=-3600)
    service.tick()
    assert (written, schedules.messages()) == (["soon"], [])
    schedules.redis.zadd(schedules.keys.schedules_due, {"soon": 1})
    service.tick()
    assert written == ["soon"]


def test_a_schedule_that_cannot_be_prepared_stops_no_other(schedules: Schedules) -> None:
    service = schedules.scheduler()
    schedules.declare("broken", due_s=-1800)
    schedules.redis.hset(schedules.keys.schedules, "broken", "{")
    schedules.declare("due")
    service.tick()
    service.tick()
    assert len(schedules.messages()) == 1


def test_data_that_redis_has_lost_is_noticed_and_declared_again(schedules: Schedules, emitted: list[Event]) -> None:
    declared: list[str] = []
    service = schedules.scheduler()
    service._declaration._declare = lambda: declared.append("again")
    schedules.declare("added", due_s=-3600)
    schedules.declare("in_code", due_s=-3600)
    schedules.redis.sadd(schedules.keys.schedules_of("s:app"), "in_code")
    service.tick()
    schedules.redis.flushdb()
    service.tick()
    assert declared == ["again", "again"]
    (lost,) = [event for event in emitted if event.name == events.SCHEDULES_LOST]
    assert lost.measurements["count"] == 1, "the other one is declared in code"


def test_a_loss_of_what_code_declares_alone_is_no_error(
    schedules: Schedules, emitted: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    service = schedules.scheduler()
    schedules.declare("in_code", due_s=-3600)
    schedules.redis.sadd(schedules.keys.schedules_of("s:app"), "in_code")
    service.tick()
    schedules.redis.flushdb()
    service.tick()
    (said,) = [record for record in caplog.records if "forgotten" in record.message]
    assert said.levelname == "WARNING"
    assert said.message == "Redis has forgotten its schedules; those declared in code were declared again"
    (lost,) = [event for event in emitted if event.name == events.SCHEDULES_LOST]
    assert lost.measurements["count"] == 0


def test_what_another_app_declares_is_not_added_at_run_time(schedules: Schedules, emitted: list[Event]) -> None:
    """Regression: the other app's entries counted as lost for good, although its beat declares them again."""
    service = schedules.scheduler()
    schedules.declare("added", due_s=-3600)
    for owner in ("s:other", "a:other", "i:w@h:1#1"):
        schedules.redis.zadd(schedules.keys.leases, {"w@h:1#1": 1})
        schedules.declare(owner.replace(":", "-"), due_s=-3600, owner=owner)
    service.tick()
    schedules.redis.flushdb()
    service.tick()
    (lost,) = [event for event in emitted if event.name == events.SCHEDULES_LOST]
    assert lost.measurements["count"] == 1


def test_an_owner_without_schedules_is_forgotten(schedules: Schedules) -> None:
    schedules.declare("one", due_s=-3600, owner="s:other")
    schedules.declare("two", due_s=-3600, owner="s:other")
    api = schedules.orchestrator.schedules
    for left in ("one", "two"):
        assert schedules.redis.smembers(schedules.keys.schedule_owners) == {b"s:other"}
        api[left].remove()
    assert not schedules.redis.exists(schedules.keys.schedule_owners)


def test_a_clock_that_jumps_is_noticed(schedules: Schedules, emitted: list[Event]) -> None:
    service = schedules.scheduler()
    service.tick()
    assert service._clock.offset_s is not None
    # As if Redis' clock had been an hour later before.
    service._clock.offset_s += 3600
    service.tick()
    service.tick()
    (jump,) = [event for event in emitted if event.name == events.SCHEDULER_CLOCK_JUMPED]
    assert jump.measurements["by_s"] == pytest.approx(-3600, abs=1)


def test_a_rate_holds_fires_back(schedules: Schedules) -> None:
    for n in range(30):
        schedules.declare(f"s{n}", due_s=1)
    service = schedules.scheduler()
    service._pace.rate = 20.0
    began = monotonic()
    while len(schedules.messages()) < 30:
        service.wait(service.tick())
    assert monotonic() - began > 0.8


def test_events_say_what_became_of_times(schedules: Schedules, emitted: list[Event]) -> None:
    schedules.declare("fired", due_s=1)
    schedules.declare("missed", due_s=100, every_s=3600, misfire_grace_s=5.0)
    schedules.scheduler().tick()
    by_name = {event.name: event for event in emitted}
    assert by_name[events.SCHEDULE_FIRED].metadata["schedule"] == "fired"
    assert by_name[events.SCHEDULE_FIRED].measurements["late_s"] >= 1
    assert by_name[events.SCHEDULE_MISSED].metadata == {"schedule": "missed", "reason": "beyond grace"}


def _script_calls(redis: Any) -> int:
    return int(redis.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_worker_that_has_just_started_does_not_miss_beat(
    schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    began = monotonic()
    worker = schedules.scheduler("worker", stale_s=0.3)
    worker.tick()
    assert worker.is_mine
    assert monotonic() - began > 0.6 or "in place of beat" not in caplog.text
    eventually(lambda: worker.tick() >= 0 and "in place of beat" in caplog.text, 5)
    assert float(caplog.text.partition("nobody else has for ")[2].split()[0]) >= 0.6
    worker.close()


def test_schedules_of_an_app_that_no_scheduler_declares_may_be_removed(schedules: Schedules) -> None:
    api, redis, keys = schedules.orchestrator.schedules, schedules.redis, schedules.keys
    definition, _ = api.define("theirs", Ledgers, Reconcile(), options={"every_s": 60})
    api._backend().add(definition, "s:renamed", "error", None)
    redis.hset(keys.schedulers, "beat@there", "renamed")
    redis.set(keys.scheduler_declares("beat@there"), "1")
    with pytest.raises(CallerError, match="declared by beat_schedule of app 'renamed'"):
        api["theirs"].remove()
    redis.delete(keys.scheduler_declares("beat@there"))
    assert api["theirs"].remove()


def test_a_turn_that_ends_while_redis_is_away_warns_of_nothing(schedules: Schedules, caplog) -> None:
    with EmbeddedServer() as server:
        service = schedules.scheduler(url=server.url)
        service.tick()
        assert service.is_mine
        server.kill()
        with caplog.at_level("INFO"):
            service.close()

    assert caplog.messages == []
