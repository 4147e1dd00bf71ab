"""A key that somebody has overwritten in Redis stops its own schedule alone, and accepts nothing twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.cli.ledger import ledger
from orchestrator.core.errors import InvalidSchedule
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.service import ScheduleService
from orchestrator.transport.redis.lost_answers import publishes_now
from tests.support.command_line import invoke
from tests.support.schedules_under_test import Schedules, scheduling_app

_FIELDS = "rnlahjtqfcmk"


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, with an app that knows an agent and a task."""
    made = Schedules(scheduling_app(redis_url))
    yield made
    made.app.close()


def _pass(schedules: Schedules, scheduler: ScheduleService | None = None, ticks: int = 3) -> None:
    """Let a scheduler look several times."""
    scheduler = scheduler or schedules.scheduler()
    for _ in range(ticks):
        scheduler.tick()


def _by_schedule(schedules: Schedules) -> list[str]:
    return sorted(message["headers"]["orc"]["metadata"]["schedule"] for message in schedules.messages())


def _is_listed_as_broken(schedules: Schedules) -> bool:
    infos = {info.id: info for info in schedules.orchestrator.schedules.infos()}
    return bool(infos["bad"].broken) and not infos["good"].broken


@pytest.mark.parametrize("value", ["abc", str(10**30), "", "01", "1.5"])
def test_a_field_that_is_no_number_sets_its_schedule_aside(schedules: Schedules, value: str) -> None:
    scheduler = schedules.scheduler()
    for letter in _FIELDS:
        schedules.redis.flushdb()
        schedules.declare("bad", due_s=2)
        schedules.declare("good", due_s=1)
        schedules.redis.hset(schedules.keys.schedule("bad"), letter, value)
        _pass(schedules, scheduler)
        assert _by_schedule(schedules) == ["good"], letter
        assert _is_listed_as_broken(schedules), letter
        assert not schedules.redis.zscore(schedules.keys.schedules_due, "bad"), letter


def test_a_schedule_that_is_due_in_the_wrong_set_is_set_aside(schedules: Schedules) -> None:
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.hset(schedules.keys.schedule("bad"), "b", "1")
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert _is_listed_as_broken(schedules)


def test_a_count_that_breaks_after_the_look_accepts_nothing(schedules: Schedules) -> None:
    firing = schedules.scheduler()._firing
    for letter in "fcmk":
        schedules.redis.flushdb()
        schedules.declare("bad", due_s=2)
        (reply,) = firing._run([firing._due_call(0, "mark", 10)])
        due = Due.of(reply)
        advances = firing._decide_all(due.now_ms, due.schedules)
        schedules.redis.hset(schedules.keys.schedule("bad"), letter, "abc")
        (answer,) = firing._run(list(firing._fire_calls(advances)))
        assert answer[1:] == [b"broken"]
        assert schedules.messages() == []


def test_a_state_of_another_type_sets_its_schedule_aside(schedules: Schedules) -> None:
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.set(schedules.keys.schedule("bad"), "x")
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert _is_listed_as_broken(schedules)
    assert "WRONGTYPE" in schedules.orchestrator.schedules["bad"].info().broken
    schedules.orchestrator.schedules["bad"].remove()
    assert list(schedules.orchestrator.schedules) == ["good"]


def test_a_state_with_thousands_of_fields_sets_its_schedule_aside(schedules: Schedules) -> None:
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.hset(schedules.keys.schedule("bad"), mapping={f"x{n}": n for n in range(9000)})
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert not schedules.redis.zscore(schedules.keys.schedules_due, "bad")


@pytest.mark.parametrize("score", ["-inf", "inf", "1e300", "-1e300"])
def test_a_due_time_that_is_none_sets_its_schedule_aside(schedules: Schedules, score: str) -> None:
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.zadd(schedules.keys.schedules_due, {"bad": score})
    assert list(schedules.orchestrator.schedules.infos())
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert _is_listed_as_broken(schedules)


@pytest.mark.parametrize("name", [b"\xff", b"gone", "ü".encode(), b""])
def test_a_due_id_without_a_schedule_is_taken_out(schedules: Schedules, name: bytes) -> None:
    schedules.declare("good", due_s=1)
    schedules.redis.zadd(schedules.keys.schedules_due, {name: 1})
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert schedules.redis.zscore(schedules.keys.schedules_due, name) is None
    broken = [info.id for info in schedules.orchestrator.schedules.infos() if info.broken]
    assert broken == [name.decode("utf-8", "backslashreplace")]


@pytest.mark.parametrize("key", ["schedule_fires", "schedule_ledger", "schedules_broken"])
def test_a_shared_key_of_another_type_is_set_aside_and_written_again(
    schedules: Schedules, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = getattr(schedules.keys, key)
    schedules.declare("bad", due_s=2)
    schedules.declare("good", due_s=1)
    schedules.redis.set(name, "x")
    schedules.redis.hset(schedules.keys.schedule("bad"), "f", "abc")
    api = schedules.orchestrator.schedules
    assert api.history() == []
    assert api.ledger() == {}
    assert len(list(api.infos())) == 2
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]
    assert schedules.state("good")["f"] == "1"
    assert [entry.schedule for entry in api.history()] == ["good"]
    assert api.ledger() == {"due": 1, "fired": 1}
    assert _is_listed_as_broken(schedules)
    (aside,) = schedules.redis.keys(f"{name}:broken:*")
    assert schedules.redis.get(aside) == b"x", "it is kept"
    assert f"set aside as {aside.decode()}" in caplog.text


def test_schedules_can_be_changed_while_the_hash_of_last_publishes_is_broken(schedules: Schedules) -> None:
    """Regression: neither could they be paused or removed, nor was one that is broken set aside."""
    schedules.declare("bad", due_s=2)
    schedules.redis.hset(schedules.keys.schedule("bad"), "r", "abc")
    schedules.declare("good", due_s=60)
    schedules.redis.set(publishes_now(schedules.keys), "x")
    schedules.declare("added", due_s=60)
    api = schedules.orchestrator.schedules
    good, added = api.get("good"), api.get("added")
    assert good is not None
    assert added is not None
    good.pause()
    added.remove()
    _pass(schedules)
    assert _is_listed_as_broken(schedules)
    assert schedules.state("good")["p"]
    assert sorted(info.id for info in api.infos()) == ["bad", "good"]


def test_a_total_that_is_no_number_is_set_aside_and_named(
    schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    api = schedules.orchestrator.schedules
    schedules.redis.hset(schedules.keys.schedule_ledger, mapping={"due": 4, "fired": "many"})
    assert api.ledger() == {"due": 4}
    assert "fired is 'many'" in caplog.text
    schedules.declare("good", due_s=1)
    _pass(schedules)
    assert api.ledger() == {"due": 5, "fired": 1}
    assert schedules.redis.hget(schedules.keys.schedule_ledger, "broken: fired") == b"many"
    assert "set aside as field broken: fired" in caplog.text
    caplog.clear()
    shown = invoke(schedules.app, ledger)
    assert shown.exit_code == 1
    assert "many" not in caplog.text, "it is read again and again; `doctor` names it"


def test_the_ledger_of_a_mailbox_of_another_type_accepts_no_fire_twice(schedules: Schedules) -> None:
    schedules.declare("good", due_s=1)
    schedules.redis.set(schedules.keys.ledger("ledgers"), "x")
    _pass(schedules)
    assert _by_schedule(schedules) == ["good"]


def test_what_is_left_without_a_definition_can_be_removed_or_added(schedules: Schedules) -> None:
    scheduler = schedules.scheduler()
    api = schedules.orchestrator.schedules
    for _ in range(2):
        schedules.redis.set(schedules.keys.schedule("bad"), "x")
        schedules.redis.zadd(schedules.keys.schedules_due, {"bad": 1})
        _pass(schedules, scheduler)
        assert schedules.redis.hkeys(schedules.keys.schedules_broken) == [b"bad"]
        (info,) = api.infos()
        assert (info.id, info.definition) == ("bad", None)
        assert "WRONGTYPE" in info.broken
        assert "bad" not in api
        with pytest.raises(InvalidSchedule, match="bad"):
            api["bad"].pause()
        assert api["bad"].remove()
        assert not schedules.redis.exists(schedules.keys.schedules_broken, schedules.keys.schedule("bad"))
    schedules.redis.set(schedules.keys.schedule("bad"), "x")
    schedules.declare("bad", due_s=1)
    _pass(schedules, scheduler)
    assert _by_schedule(schedules) == ["bad"]


def test_a_broken_one_is_declared_again(schedules: Schedules) -> None:
    api = schedules.orchestrator.schedules
    for broken in ("type", "field"):
        schedules.redis.flushdb()
        schedules.declare("bad", due_s=1)
        definition = api["bad"].info().definition
        assert definition is not None
        if broken == "type":
            schedules.redis.set(schedules.keys.schedule("bad"), "x")
        else:
            schedules.redis.hset(schedules.keys.schedule("bad"), mapping={"q": "abc", "f": "abc", "r": "abc"})
        _pass(schedules)
        api._backend().add(definition, "", "replace", None)
        info = api["bad"].info()
        assert not info.broken
        assert info.state.due_ms
        assert schedules.messages() == []


def test_a_pass_that_redis_refuses_is_no_outage(schedules: Schedules, caplog: pytest.LogCaptureFixture) -> None:
    schedules.redis.set(schedules.keys.schedules_due, "x")
    _pass(schedules)
    assert caplog.text.count("Redis refuses a pass") == 1
    assert "Redis is away" not in caplog.text
