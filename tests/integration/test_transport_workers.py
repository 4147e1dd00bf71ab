"""The transport alone, with real workers that are really killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bare_broker import BareBroker
from tests.eventually import eventually
from tests.worker_process import WorkerProcess

APP = "tests.apps.bare"
POOLS = ["solo", "threads", "prefork", "gevent"]


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def worker(broker: BareBroker, name: str = "w1", **options: Any) -> WorkerProcess:
    return WorkerProcess(APP, broker.url, name=name, **options)


@pytest.mark.parametrize("pool", POOLS)
def test_many_messages_are_handled_once_each_and_leave_nothing(broker: BareBroker, pool: str) -> None:
    names = [f"n{i}" for i in range(300)]
    broker.send("note", *names)
    with worker(broker, pool=pool, concurrency=2) as w:
        eventually(lambda: broker.ledger().handled == 300, timeout_s=30, describe=w.log)
        assert broker.done() == dict.fromkeys(names, 1)
        row = broker.ledger()
        assert (row.accepted, row.pending, row.lost, row.duplicated) == (300, 0, 0, 0)
        assert w.stop() == 0
    assert broker.redis.zcard(broker.store.keys.leases) == 0
    assert [fields["reason"] for _, fields in broker.redis.xrange(broker.store.keys.deaths)] == ["drained"]
    assert all(broker.redis.xlen(stream) == 0 for stream in broker.store.streams("celery"))


@pytest.mark.parametrize("pool", POOLS)
def test_work_of_a_killed_worker_runs_elsewhere_promptly(broker: BareBroker, pool: str) -> None:
    broker.send("hold", "h0", "h1", "h2")
    with worker(broker, "first", pool=pool) as first:
        eventually(lambda: broker.began() == ["h0"])
        with worker(broker, "second", pool=pool) as second:
            eventually(lambda: broker.ledger().held == 3)
            killed_at = broker.redis.time()
            first.kill()
            broker.go("h0", "h1", "h2", "h0")
            eventually(lambda: broker.ledger().handled == 3, describe=second.log)
            handled_at = broker.redis.time()
    assert set(broker.done()) == {"h0", "h1", "h2"}
    assert handled_at[0] - killed_at[0] + (handled_at[1] - killed_at[1]) / 1e6 < 4
    row = broker.ledger()
    # Only the one that was running is on the dead worker's account.
    assert (row.restarted, row.redelivered, row.lost) == (1, 3, 0)
    assert broker.letters() == []


def test_a_message_that_kills_once_is_handled_the_second_time(broker: BareBroker) -> None:
    broker.send("once_deadly", "x")
    with worker(broker, pool="prefork") as w:
        eventually(lambda: broker.done() == {"x": 1}, describe=w.log)
        eventually(lambda: broker.ledger().handled == 1)
    assert broker.ledger().restarted == 1


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_task_that_leaves_the_interpreter_counts_as_a_death_and_is_settled(broker: BareBroker, pool: str) -> None:
    broker.send("leaves_once", "x")
    broker.send("leaves", "z")
    broker.send("note", "y")
    with worker(broker, pool=pool) as w:
        eventually(lambda: broker.done() == {"x": 1, "y": 1}, timeout_s=40, describe=w.log)
        eventually(lambda: broker.ledger().pending == 0, timeout_s=40, describe=w.log)
        assert w.stop() == 0
    row = broker.ledger()
    assert (row.handled, row.dead, row.lost) == (2, 1, 0)
    assert [name for name in broker.began() if name != "y"].count("z") == 3


def test_rubbish_in_the_channel_of_remote_control_does_not_part_a_worker_from_its_broker(broker: BareBroker) -> None:
    channel = f"/{broker.redis.connection_pool.connection_kwargs['db']}.celery.pidbox"
    with worker(broker, pool="threads") as w:
        eventually(lambda: broker.app.control.ping(timeout=1, limit=1), timeout_s=40, describe=w.log)
        for rubbish in ("", "{}", "[]", "null", '"x"', '{"properties": 1}', '{"body": "x", "properties": {}}'):
            assert broker.redis.publish(channel, rubbish) == 1
        assert broker.app.control.ping(timeout=10, limit=1), w.log()
        broker.send("note", "x")
        eventually(lambda: broker.done() == {"x": 1}, timeout_s=40, describe=w.log)
        assert "Connection to broker lost" not in w.log()
        assert w.log().count("no message, and ignored") >= 6


@pytest.mark.parametrize("pool", POOLS)
def test_warm_shutdown_finishes_what_runs_and_returns_the_rest(broker: BareBroker, pool: str) -> None:
    broker.send("hold", "h0", "h1", "h2", "h3", "h4", "h5")
    with worker(broker, pool=pool) as w:
        eventually(lambda: broker.ledger().held >= 4 and broker.began() == ["h0"])
        w.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in w.log())
        broker.go("h0", "h1", "h2", "h3", "h4", "h5")
        eventually(lambda: not w.is_running, describe=w.log)
    row = broker.ledger()
    assert row.held == 0
    assert row.handled + row.ready == 6
    assert row.lost == 0
    assert row.restarted == 0
    assert broker.redis.zcard(broker.store.keys.leases) == 0


def test_soft_shutdown_lets_short_tasks_finish_and_returns_the_rest(broker: BareBroker) -> None:
    with worker(broker, pool="prefork", environment={"BARE_SOFT_SHUTDOWN_S": "0.5"}) as w:
        broker.send("hold", "short")
        eventually(lambda: broker.began() == ["short"])
        broker.send("hold", "long", "waiting")
        eventually(lambda: broker.ledger().held == 3)
        w.signal(signal.SIGQUIT)
        eventually(lambda: "Initiating Soft Shutdown" in w.log())
        broker.go("short")
        eventually(lambda: not w.is_running, describe=w.log)
    row = broker.ledger()
    assert (broker.done(), row.handled, row.ready, row.held) == ({"short": 1}, 1, 2, 0)
    assert row.restarted == 0


def test_without_prefetching_only_what_runs_is_held(broker: BareBroker) -> None:
    """Regression: as many were claimed as the prefetch limit allows, and no other worker could have them."""
    broker.send("hold", "h0", "h1", "h2")
    with worker(broker, pool="threads", concurrency=1, arguments=("--disable-prefetch",)) as w:
        eventually(lambda: broker.began() == ["h0"], describe=w.log)
        # It answers only once it has been round its event loop again.
        broker.app.control.inspect(timeout=10, limit=1).ping()
        row = broker.ledger()
        assert (row.held, row.ready) == (1, 2)
        broker.go("h0", "h1", "h2")
        eventually(lambda: broker.ledger().handled == 3, describe=w.log)


def test_cold_shutdown_returns_everything_and_blames_nobody(broker: BareBroker) -> None:
    with worker(broker, pool="prefork") as w:
        broker.send("hold", "h0", "h1")
        eventually(lambda: broker.began() == ["h0"])
        w.signal(signal.SIGQUIT)
        eventually(lambda: not w.is_running, describe=w.log)
        eventually(lambda: broker.ledger().ready == 2)
    assert broker.ledger().restarted == 0


def test_cold_shutdown_of_a_pool_that_cannot_cancel_does_not_fail_what_runs(broker: BareBroker) -> None:
    broker.send("hold", "h0", "h1")
    with worker(broker, pool="solo") as w:
        eventually(lambda: broker.began() == ["h0"], describe=w.log)
        w.signal(signal.SIGQUIT)
        eventually(lambda: "Cold shutdown" in w.log(), describe=w.log)
        broker.go("h0")
        eventually(lambda: not w.is_running, timeout_s=20, describe=w.log)
        assert "NotImplementedError" not in w.log()
    assert broker.done() == {"h0": 1}
    row = broker.ledger()
    assert (row.handled, row.ready, row.restarted, row.lost) == (1, 1, 0, 0)


@pytest.mark.parametrize("pool", POOLS)
def test_countdown_waits_in_redis_and_is_neither_early_nor_much_too_late(broker: BareBroker, pool: str) -> None:
    with worker(broker, pool=pool) as w:
        before = broker.redis.time()
        broker.send("note", "later", countdown=0.7)
        assert broker.ledger().delayed == 1
        broker.send("note", "now")
        eventually(lambda: broker.done() == {"now": 1, "later": 1}, describe=w.log)
        after = broker.redis.time()
    took_s = after[0] - before[0] + (after[1] - before[1]) / 1e6
    assert 0.7 <= took_s < 2.5


def test_a_month_ahead_does_not_come_back(broker: BareBroker) -> None:
    with worker(broker) as w:
        broker.send("note", "far", countdown=30 * 24 * 3600)
        broker.send("note", "near")
        eventually(lambda: broker.done() == {"near": 1}, describe=w.log)
        eventually(lambda: broker.ledger().handled == 1)
        row = broker.ledger()
        assert (row.delayed, row.held, row.lost) == (1, 0, 0)


def test_early_acks_are_settled_before_the_task_runs(broker: BareBroker) -> None:
    with worker(broker, queues="early") as w:
        broker.send("early", "e", queue="early")
        eventually(lambda: broker.ledger("early").handled == 1, describe=w.log)


def test_urgent_messages_come_first(broker: BareBroker) -> None:
    broker.send("note", "late", priority=9)
    broker.send("note", "middle", priority=5)
    broker.send("note", "first", priority=0)
    with worker(broker, environment={"BARE_PREFETCH": "1"}) as w:
        eventually(lambda: len(broker.done()) == 3, describe=w.log)
    assert broker.began() == ["first", "middle", "late"]


@pytest.mark.parametrize("pool", POOLS)
def test_a_stopped_worker_is_fenced_without_loss(broker: BareBroker, pool: str) -> None:
    short = {"BARE_LEASE_S": "1.5"}
    broker.send("hold", "h0", "h1")
    with worker(broker, "sleeper", pool=pool, environment=short) as sleeper:
        eventually(lambda: broker.ledger().held == 2)
        asleep = sleeper.incarnation
        with worker(broker, "waker", pool=pool, environment=short) as waker:
            sleeper.signal(signal.SIGSTOP)
            broker.go("h0", "h1", "h0", "h1")
            eventually(lambda: broker.ledger().handled == 2, timeout_s=20, describe=waker.log)
            sleeper.signal(signal.SIGCONT)
            # It learns that it was given up, and begins anew.
            eventually(
                lambda: any(
                    lease != asleep and f":{sleeper.pid}#" in lease
                    for lease in broker.redis.zrange(broker.store.keys.leases, 0, -1)
                ),
                timeout_s=20,
                describe=sleeper.log,
            )
            broker.go("h0", "h1", "h2")
            broker.send("hold", "h2")
            eventually(lambda: broker.done().get("h2") == 1, describe=sleeper.log)
    assert broker.ledger().lost == 0


def test_no_child_of_a_killed_worker_lingers(broker: BareBroker) -> None:
    import psutil

    with worker(broker, pool="prefork", concurrency=2) as w:
        children = [child.pid for child in psutil.Process(w.pid).children(recursive=True)]
        assert children
        os.kill(w.pid, signal.SIGKILL)
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in children))
