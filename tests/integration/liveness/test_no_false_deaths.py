"""Nobody is declared dead who is not: slow, stopped, cut off and late are not dead. See also test_transport_outages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import ConnectionPool

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.liveness.incarnation import Incarnation
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.half_open import HalfOpen
from tests.support.outages import hanging, killed, suspended
from tests.support.worker_process import WorkerProcess, logs_of

APP = "tests.apps.bare"

#: Everything five times as fast as by default, or more.
SHORT = {"BARE_OPTIONS": json.dumps({"lease_s": 2, "block_s": 0.2, "stuck_s": 0.5}), "BARE_PREFETCH": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def broker(server: EmbeddedServer) -> Iterator[BareBroker]:
    broker = BareBroker(server.url)
    broker.redis.delete(broker.store.keys.deaths, "test:began", "test:done")
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def workers(server: EmbeddedServer) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two that live through everything here but the tests that bring their own."""
    a = WorkerProcess(APP, server.url, name="a", environment=SHORT, queues="celery")
    b = WorkerProcess(APP, server.url, name="b", environment=SHORT, queues="other")
    with a, b:
        yield a, b


def deaths(broker: BareBroker) -> list[str]:
    return [fields["reason"] for _, fields in broker.redis.xrange(broker.store.keys.deaths)]


def all_live(broker: BareBroker, count: int) -> None:
    """Once a closed connection and silence count again, and in two more sweeps, nobody has died."""
    sweep = broker.store.keys.sweep

    def swept_in_earnest() -> int:
        now_s, _ = broker.redis.time()
        known = broker.redis.hmget(sweep, "closed_counts_ms", "old_heartbeat_counts_ms", "sweeps")
        if None in known:
            return 0
        *from_ms, sweeps = map(int, known)
        return sweeps if max(from_ms) < now_s * 1000 else 0

    before = eventually(swept_in_earnest, timeout_s=40)
    eventually(lambda: swept_in_earnest() > before + 2, timeout_s=40)
    assert deaths(broker) == []
    assert broker.redis.zcard(broker.store.keys.leases) == count


def oldest_heartbeat_s(broker: BareBroker) -> float:
    seconds, micros = broker.redis.time()
    ((_, beat_ms),) = broker.redis.zrange(broker.store.keys.leases, 0, 0, withscores=True)
    return float(seconds + micros / 1e6 - beat_ms / 1000)


Pair = tuple[WorkerProcess, WorkerProcess]


@pytest.mark.parametrize(
    "attempts",
    [
        # Celery pauses for 2 s, 4 s, 6 s … between its attempts to connect: 6 s and, with the last, 30 s.
        pytest.param(3, id="6s"),
        pytest.param(6, id="30s", marks=pytest.mark.slow),
    ],
)
def test_redis_was_away(server: EmbeddedServer, broker: BareBroker, workers: Pair, attempts: int) -> None:
    """Regression: an idle worker left five seconds into the outage, and was dead on the record afterwards."""
    tries = f"({attempts}/"
    before = [worker.log().count(tries) for worker in workers]
    all_live(broker, 2)
    with killed(server):
        eventually(
            lambda: all(w.log().count(tries) > n for w, n in zip(workers, before, strict=True)),
            timeout_s=60,
            describe=logs_of(*workers),
        )
    all_live(broker, 2)
    broker.send("note", *[f"n{i}" for i in range(20)])
    eventually(lambda: len(broker.done()) == 20, timeout_s=60, describe=logs_of(*workers))
    assert deaths(broker) == []


def test_redis_was_started_anew_within_the_time_between_two_sweeps(server: EmbeddedServer) -> None:
    """Regression: with a lease shorter than that time, whoever was not back yet was taken for lost."""
    broker = BareBroker(server.url, database=1, sweep_gap_s=3600, lease_s=1)
    k, sweeper = broker.store.keys, broker.store.sweeper()

    def sweep_long_after_the_last_heartbeat() -> tuple[str, ...]:
        broker.redis.zadd(k.leases, {name: broker.redis.time()[0] * 1000 - 60_000}, xx=True)
        swept = sweeper.sweep("test")
        assert not swept.stood_back
        return swept.dead

    raw, _ = broker.store.run(*commands.register(k, "w:1", {"node": "w"}))
    name = raw.decode()
    sweeper.sweep("test")
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    server.kill()
    server.restart()
    assert sweep_long_after_the_last_heartbeat() == ()
    # From then on it is watched for a whole lease.
    eventually(lambda: sweep_long_after_the_last_heartbeat() == (name,))
    assert deaths(broker) == ["lost"]
    broker.close()


def test_redis_was_stopped(server: EmbeddedServer, broker: BareBroker, workers: Pair) -> None:
    unsent = "not sent: Redis is unreachable"
    before = [worker.log().count(unsent) for worker in workers]
    with hanging(server):
        eventually(
            lambda: all(w.log().count(unsent) > n for w, n in zip(workers, before, strict=True)),
            timeout_s=30,
            describe=logs_of(*workers),
        )
    all_live(broker, 2)


def test_the_whole_host_was_suspended(broker: BareBroker, workers: Pair) -> None:
    with suspended(*workers):
        eventually(lambda: oldest_heartbeat_s(broker) > 3)
    all_live(broker, 2)


@pytest.mark.parametrize("task", ["hold", "early_hold"])
def test_a_solo_worker_is_busy_while_mail_waits(broker: BareBroker, workers: Pair, task: str) -> None:
    """A solo pool asks for nothing while it works; one that acknowledges early holds nothing either."""
    w, _ = workers
    broker.send(task, "long")
    eventually(lambda: broker.began() == ["long"], describe=w.log)
    broker.send("note", *[f"n{i}" for i in range(20)])
    incarnation = broker.store.keys.incarnation(w.incarnation)
    eventually(lambda: float(broker.redis.hget(incarnation, "last_poll_s")) > 3, describe=w.log)
    assert broker.redis.zcard(broker.store.keys.not_polling) == 0
    broker.go("long")
    eventually(lambda: len(broker.done()) == 21, timeout_s=20, describe=w.log)
    assert deaths(broker) == []


def test_no_thread_could_run_for_twice_the_time_that_makes_suspect(broker: BareBroker, workers: Pair) -> None:
    all_live(broker, 2)
    broker.send("freeze", "f0", "f1")
    eventually(lambda: set(broker.done()) == {"f0", "f1"}, describe=logs_of(*workers))
    all_live(broker, 2)


def test_the_monitor_manager_was_stopped_and_goes_on(redis_url: str, tmp_path: Path) -> None:
    broker = BareBroker(redis_url)
    beat = ("-B", "-s", str(tmp_path / "beat"))
    with (
        WorkerProcess("tests.apps.shop", redis_url, name="m", queues="monitor-manager", arguments=beat) as manager,
        WorkerProcess("tests.apps.shop", redis_url, name="a", queues="billing") as a,
    ):

        def swept_by(name: str) -> bool:
            return bool(broker.redis.hget(broker.store.keys.sweep, "by") == name)

        eventually(lambda: swept_by("monitor-manager"), timeout_s=20, describe=manager.log)
        with suspended(manager):
            eventually(lambda: swept_by(a.incarnation), timeout_s=20, describe=a.log)
        eventually(lambda: swept_by("monitor-manager"), timeout_s=20, describe=manager.log)
        assert deaths(broker) == []
        assert broker.redis.zcard(broker.store.keys.leases) == 2
    broker.close()


class Consumer:
    """One that is content with what it has. An incarnation that nobody consumes with leaves by itself."""

    def on_fenced(self) -> None:
        raise AssertionError("fenced")

    def wants_messages(self) -> bool:
        return False

    def expecting_s(self) -> float | None:
        return None


def test_two_hundred_start_at_once(redis_url: str) -> None:
    broker = BareBroker(redis_url, heart=False)
    store = broker.store

    def start(_: int) -> Incarnation:
        holder = Incarnation(
            ConnectionPool.from_url(redis_url, socket_timeout=10), store.keys, store.options, store.levels, store.broker
        )
        holder.attach(Consumer(), "celery")
        return holder

    with ThreadPoolExecutor(50) as starting:
        holders = list(starting.map(start, range(200)))

    def sweeps() -> int:
        return int(broker.redis.hget(store.keys.sweep, "sweeps") or 0)

    try:
        # On a busy machine all of them are late, and so are the sweeps.
        eventually(lambda: sweeps() > 10, timeout_s=60)
        assert deaths(broker) == []
        assert broker.redis.zcard(store.keys.leases) == 200
    finally:
        for holder in holders:
            holder.leave()
    assert set(deaths(broker)) == {"drained"}
    broker.close()


def test_a_worker_that_beats_but_does_not_consume_is_stuck_and_begins_anew(redis_url: str) -> None:
    """Its connection for reading looks open, and nothing comes on it: what many a reconnect has ended in."""
    broker = BareBroker(redis_url)
    with HalfOpen(redis_url) as proxy:
        environment = {**SHORT, "BARE_RECORD_URL": redis_url, "ORCHESTRATOR_BROKER_URL": proxy.url}
        with WorkerProcess(APP, redis_url, environment=environment) as w:
            broker.send("note", "before")
            eventually(lambda: broker.done() == {"before": 1}, describe=w.log)
            stuck = w.incarnation
            eventually(lambda: proxy.freeze_readers() >= 1)
            # Nothing waits for it, so it is let be.
            eventually(lambda: broker.redis.zcard(broker.store.keys.not_polling) == 1, describe=w.log)
            all_live(broker, 1)
            broker.send("note", "after")
            eventually(lambda: set(broker.done()) == {"before", "after"}, timeout_s=30, describe=w.log)
            eventually(lambda: deaths(broker) == ["stuck", "fenced"], describe=w.log)
            eventually(lambda: broker.redis.zcard(broker.store.keys.leases) == 1, describe=w.log)
            assert w.incarnation != stuck
            assert broker.redis.zcard(broker.store.keys.not_polling) == 0
            eventually(lambda: broker.ledger().pending == 0)
            assert broker.ledger().lost == 0
    broker.close()
