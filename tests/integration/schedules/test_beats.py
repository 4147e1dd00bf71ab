"""Real beats and workers: two beats that are killed and stopped, a worker in beat's place, an owner that dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from orchestrator.core.schedules.state import delivery_id_of
from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.ports import free_port
from tests.apps.schedules_app import RECORDED, Own
from tests.support.beat_process import BeatProcess
from tests.support.eventually import eventually
from tests.support.loading_redis import loading_redis
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.schedules_app"

#: A process of Celery's takes seconds to start, and many of them where the machine does much else.
START_S = 60.0


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    """The Redis of the test."""
    with Redis.from_url(redis_url) as client:
        yield client


def turn_of(redis: Any) -> str:
    """The scheduler whose turn it is."""
    return (redis.hget("orc:scheduler", "of") or b"").decode()


def holder_of(redis: Any, beats: list[BeatProcess]) -> BeatProcess:
    """The beat whose turn it is, once one has it."""
    found = eventually(lambda: [beat for beat in beats if f":{beat.pid}:" in turn_of(redis)], START_S, beats[0].log)
    return found[0]


def fired(redis: Any, name: str) -> list[int]:
    """The nominal times of a schedule that were fired, in their order."""
    entries = redis.xrange("orc:schedules:fires")
    return [int(f[b"n"]) for _, f in entries if f[b"s"] == name.encode() and f[b"a"] == b"fired"]


def wait_for_more(redis: Any, more: int) -> None:
    """Wait for so many fires of ``half`` that have not been yet."""
    count = len(fired(redis, "half"))
    eventually(lambda: len(fired(redis, "half")) >= count + more, START_S)


def ledger(redis: Any) -> dict[str, int]:
    """The ledger of fires."""
    return {name.decode(): int(value) for name, value in redis.hgetall("orc:schedules:ledger").items()}


def is_balanced(redis: Any) -> bool:
    """Whether each due time became something."""
    of = ledger(redis)
    return of["due"] == sum(of.get(name, 0) for name in ("fired", "coalesced", "missed", "skipped"))


def accepted(redis: Any) -> list[str]:
    """The ids of all messages in the tasks' mailbox, which nobody consumes."""
    return [json.loads(fields[b"m"])["headers"]["id"] for _, fields in redis.xrange("orc:q:0:celery")]


def test_beats_that_are_killed_give_neither_a_double_nor_a_gap(redis: Any, redis_url: str) -> None:
    with BeatProcess(APP, redis_url) as one, BeatProcess(APP, redis_url) as other:
        beats = [one, other]
        for _ in range(3):
            holder = holder_of(redis, beats)
            wait_for_more(redis, 2)
            holder.kill()
            holder.start()
        eventually(lambda: len(fired(redis, "half")) > 10, START_S, one.log)
        for beat in beats:
            beat.kill()
    times = fired(redis, "half")
    assert len(set(times)) == len(times)
    assert all((later - earlier) % 500 == 0 for earlier, later in pairwise(times))
    assert is_balanced(redis)
    ids = accepted(redis)
    assert len(set(ids)) == len(ids)
    assert {delivery_id_of("half", time) for time in times} <= set(ids)


@pytest.mark.slow
def test_a_stopped_beat_that_wakes_up_fires_nothing_twice(redis: Any, redis_url: str) -> None:
    with BeatProcess(APP, redis_url) as one, BeatProcess(APP, redis_url) as other:
        beats = [one, other]
        holder = holder_of(redis, beats)
        eventually(lambda: len(fired(redis, "half")) >= 2, 10, one.log)
        holder.signal(signal.SIGSTOP)
        eventually(lambda: turn_of(redis) and f":{holder.pid}:" not in turn_of(redis), 5, one.log)
        count = len(fired(redis, "half"))
        eventually(lambda: len(fired(redis, "half")) > count + 1, 10, one.log)
        holder.signal(signal.SIGCONT)
        eventually(lambda: len(fired(redis, "half")) > count + 4, START_S, one.log)
    times = fired(redis, "half")
    assert len(set(times)) == len(times)
    assert is_balanced(redis)


@pytest.mark.slow
def test_a_worker_schedules_in_beats_place_and_gives_way(redis: Any, redis_url: str) -> None:
    with WorkerProcess(APP, redis_url) as worker:
        eventually(lambda: "ready" in worker.log(), START_S, worker.log)
        # There never was a beat: 10 s after its start the worker fires entries of beat_schedule, too.
        eventually(lambda: {"clockwork.tick", "half", "lazy"} <= _names(redis), 25, worker.log)
        assert turn_of(redis).startswith("worker@")
        eventually(lambda: "in place of beat" in worker.log(), 10, worker.log)
        with BeatProcess(APP, redis_url) as beat:
            eventually(lambda: turn_of(redis).startswith("beat@"), START_S, beat.log)
            eventually(lambda: "half" in _names(redis), 10, beat.log)
        redis.delete(RECORDED)
        # The periodic method of the agent, an entry, and an argument that only the app's code can make.
        eventually(lambda: {"clockwork.tick", "half", "lazy"} <= _names(redis), START_S, worker.log)
        assert turn_of(redis).startswith("worker@")
        with BeatProcess(APP, redis_url) as beat:
            eventually(lambda: turn_of(redis).startswith("beat@"), START_S, beat.log)
    recorded = redis.lrange(RECORDED, 0, -1)
    assert len(set(recorded)) == len(recorded)


@pytest.mark.slow
def test_an_incarnations_schedules_end_with_it(redis: Any, redis_url: str) -> None:
    from tests.apps import schedules_app

    app = schedules_app.app
    app.conf.broker_url = redis_url
    with BeatProcess(APP, redis_url) as beat, WorkerProcess(APP, redis_url) as worker:
        schedules_app.orchestrator.send("clockwork", Own(every_s=0.2))
        eventually(lambda: _recorded(redis, "refresh") >= 3, START_S, worker.log)
        owned = [key.decode() for key in redis.hkeys("orc:schedules") if key.endswith(b"/refresh")]
        assert len(owned) == 1
        with WorkerProcess(APP, redis_url, name="w2") as survivor:
            worker.kill()
            eventually(lambda: not redis.hexists("orc:schedules", owned[0]), 40, survivor.log)
        assert beat.log()
    app.close()


@pytest.mark.slow
def test_two_workers_with_a_beat_each_fire_each_due_time_once(redis: Any, redis_url: str) -> None:
    with (
        WorkerProcess(APP, redis_url, arguments=("-B",)) as one,
        WorkerProcess(APP, redis_url, arguments=("-B",), name="w2") as other,
    ):
        eventually(lambda: redis.hlen("orc:schedulers") == 2, START_S, one.log)
        eventually(lambda: turn_of(redis).startswith("beat@"), START_S, one.log)
        wait_for_more(redis, 2)
        # A worker dies with its beat, which fires; the other one's goes on.
        beat_of = int(turn_of(redis).split(":")[1])
        next(worker for worker in (one, other) if os.getpgid(beat_of) == worker.pid).kill()
        wait_for_more(redis, 3)
    names = ("half", "second", "lazy")
    for name in names:
        times = fired(redis, name)
        assert len(set(times)) == len(times) > 0
        assert all((later - earlier) % 500 == 0 for earlier, later in pairwise(times))
    assert is_balanced(redis)
    assert int(redis.hget("orc:ledger:celery", "accepted")) == sum(len(fired(redis, name)) for name in names)


def test_an_entry_that_cannot_be_a_schedule_is_named_and_beat_ends_with_2(redis_url: str) -> None:
    with BeatProcess("tests.apps.bad_schedules_app", redis_url) as beat:
        assert beat.wait() == 2
        assert "beat_schedule['words']" in beat.log()
        assert "Traceback" not in beat.log()


def _names(redis: Any) -> set[str]:
    return {line.split()[0].decode() for line in redis.lrange(RECORDED, 0, -1)}


def _recorded(redis: Any, name: str) -> int:
    return sum(line.split()[0].decode() == name for line in redis.lrange(RECORDED, 0, -1))


@pytest.mark.slow
def test_what_another_scheduler_fires_no_worker_fires_in_its_place(redis: Any, redis_url: str, tmp_path: Path) -> None:
    with BeatProcess(APP, redis_url) as beat:
        eventually(lambda: len(fired(redis, "half")) > 1, START_S, beat.log)
    arguments = ("-S", "celery.beat:PersistentScheduler", "-s", str(tmp_path / "schedule"))
    with WorkerProcess(APP, redis_url) as worker, BeatProcess(APP, redis_url, *arguments) as beat:
        eventually(lambda: not redis.hexists("orc:schedules", "half"), START_S, beat.log)
        count = len(fired(redis, "half"))
        eventually(lambda: "clockwork.tick" in _names(redis), START_S, worker.log)
        assert len(fired(redis, "half")) == count


def test_a_beat_that_starts_while_redis_loads_its_data_waits_for_it() -> None:
    with loading_redis() as loading, BeatProcess(APP, loading.url) as beat:
        eventually(lambda: "Redis is away, nothing is fired" in beat.log(), START_S, beat.log)
        assert beat.log().count("nothing is fired") == 1
        loading.finish()
        with Redis.from_url(loading.url) as client:
            eventually(lambda: fired(client, "half"), START_S, beat.log)
            assert "Redis is back after" in beat.log()


def test_a_beat_that_starts_before_its_redis_waits_for_it() -> None:
    server = EmbeddedServer(port=free_port(), password="x")
    with BeatProcess(APP, server.url) as beat:
        eventually(lambda: "Redis is away, nothing is fired" in beat.log(), START_S, beat.log)
        with server, Redis.from_url(server.url) as client:
            eventually(lambda: fired(client, "half"), START_S, beat.log)
            assert "Redis is back after" in beat.log()


def test_a_beat_with_a_wrong_password_ends_and_says_so() -> None:
    with EmbeddedServer(password="right") as server, BeatProcess(APP, server.url.replace("right", "wrong")) as beat:
        assert beat.wait(START_S) == 1
        assert "password" in beat.log()
