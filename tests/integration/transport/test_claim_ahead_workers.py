"""Real workers that have claimed ahead, while something happens to them."""

from __future__ import annotations

import json
import signal
from functools import partial
from typing import Any

import pytest
from redis import Redis

from orchestrator import Cancelled
from orchestrator.core.keys import GROUP
from orchestrator.sending.ledger import LedgerRow
from tests.apps import listened_app
from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 20

#: Short messages in front of each slow one.
SHORT = 200
HOLDS = ("h0", "h1", "h2")
BEHIND = [f"b{number}" for number in range(20)]

#: The worker claims ahead, and keeps its buffer until a slot is free.
KEEPS = ("--include", "tests.apps.full_buffer")


def claiming_ahead(broker: BareBroker, **options: Any) -> WorkerProcess:
    environment = {"BARE_PREFETCH": "1", "BARE_OPTIONS": json.dumps({"claim_ahead": True})}
    return worker(broker, environment=environment, arguments=KEEPS, **options)


def publish(broker: BareBroker) -> list[str]:
    """Short messages and slow ones in turn; returns all names."""
    names = []
    for hold in HOLDS:
        short = [f"{hold}-{number}" for number in range(SHORT)]
        broker.send("note", *short)
        broker.send("hold", hold)
        names += [*short, hold]
    broker.send("note", *BEHIND)
    return [*names, *BEHIND]


def has_begun(broker: BareBroker, name: str) -> bool:
    return name in broker.began()


def fill(broker: BareBroker, w: WorkerProcess) -> str:
    """Waits until a slow message runs in front of a full buffer; returns its name."""
    for hold in HOLDS:
        eventually(partial(has_begun, broker, hold), WAIT_S, w.log)
        # What was settled before it is confirmed within milliseconds.
        eventually(lambda: broker.ledger().handled == len(broker.done()), WAIT_S, w.log)
        if broker.ledger().held > 1:
            return hold
        broker.go(hold)
    raise AssertionError(f"the worker did not claim ahead of any of the slow messages\n{w.log()}")


def marks(broker: BareBroker, *queues: str) -> list[int]:
    """The delivery counters of what is held."""
    streams = [stream for queue in queues for stream in broker.store.streams(queue) if broker.redis.exists(stream)]
    pending = [broker.redis.xpending_range(stream, GROUP, "-", "+", 1000) for stream in streams]
    return sorted(entry["times_delivered"] for entries in pending for entry in entries)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_killed_workers_buffer_runs_elsewhere_and_is_not_blamed(broker: BareBroker, pool: str) -> None:
    names = publish(broker)
    with claiming_ahead(broker, pool=pool) as w:
        running = fill(broker, w)
        buffered = broker.ledger().held - 1
        # A process of the pool begins before its worker knows that, and marks it.
        eventually(lambda: marks(broker, "celery") == [*[0] * buffered, 2], WAIT_S, w.log)
        w.kill()
        broker.go(*HOLDS)
        with worker(broker, name="w2", pool=pool) as second:
            eventually(lambda: set(broker.done()) == set(names), WAIT_S, second.log)
            eventually(lambda: broker.ledger().pending == 0, WAIT_S, second.log)
    assert broker.redis.hget("test:runs", running) == "2"
    assert {name: count for name, count in broker.redis.hgetall("test:runs").items() if count != "1"} == {running: "2"}
    row = broker.ledger()
    assert (row.handled, row.dead, row.lost, row.restarted) == (len(names), 0, 0, 1)


@pytest.mark.parametrize("pool", ["threads", "prefork", "gevent"])
def test_a_stopping_worker_requeues_its_buffer_while_its_last_message_runs(broker: BareBroker, pool: str) -> None:
    names = publish(broker)
    with claiming_ahead(broker, pool=pool) as w:
        running = fill(broker, w)
        w.signal(signal.SIGTERM)
        eventually(lambda: broker.ledger().held == 1, WAIT_S, w.log)
        assert w.is_running
        assert running not in broker.done()
        broker.go(*HOLDS)
        eventually(lambda: not w.is_running, WAIT_S, w.log)
    row = broker.ledger()
    assert (row.held, row.lost, row.restarted, row.redelivered) == (0, 0, 0, 0)
    assert broker.done()[running] == 1
    with worker(broker, name="w2", pool=pool) as second:
        eventually(lambda: set(broker.done()) == set(names), WAIT_S, second.log)
    assert set(broker.done().values()) == {1}


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_of_several_queues_claims_ahead_from_each(broker: BareBroker, pool: str) -> None:
    queues = ("one", "two", "three")
    names = {queue: [f"{queue}-{number}" for number in range(SHORT)] for queue in queues}
    for queue in queues:
        broker.send("note", *names[queue], queue=queue)
    environment = {"BARE_PREFETCH": "1", "BARE_OPTIONS": json.dumps({"claim_ahead": True})}
    with worker(broker, pool=pool, queues=",".join(queues), environment=environment) as w:
        eventually(lambda: broker.ledger().handled == len(queues) * SHORT, WAIT_S, w.log)
    began = broker.began()
    for queue in queues:
        assert [name for name in began if name.startswith(f"{queue}-")] == names[queue]
        row = broker.ledger(queue)
        assert (row.handled, row.pending, row.lost, row.redelivered, row.restarted) == (SHORT, 0, 0, 0, 0)


def test_a_pool_that_grows_takes_from_the_buffer_and_one_that_shrinks_goes_on(broker: BareBroker) -> None:
    names = publish(broker)
    with claiming_ahead(broker, pool="prefork") as w:
        running = fill(broker, w)
        behind = names[names.index(running) + 1 :]
        buffered = behind[: broker.ledger().held - 1]
        broker.app.control.pool_grow(1)
        eventually(lambda: set(buffered) <= set(broker.done()), WAIT_S, w.log)
        assert running not in broker.done()
        broker.app.control.pool_shrink(1)
        broker.go(*HOLDS)
        eventually(lambda: set(broker.done()) == set(names), WAIT_S, w.log)
        eventually(lambda: broker.ledger().pending == 0, WAIT_S, w.log)
    row = broker.ledger()
    assert (row.handled, row.lost) == (len(names), 0)
    # Celery may end a process that has just been given a message.
    assert (row.redelivered, row.restarted) in [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("pool", "arguments"),
    [
        # The buffer's thread requeues it, and requeueing ends what was cancelled.
        ("solo", ()),
        # The worker is told while it lies in the buffer, and ends it when it comes to it.
        ("threads", KEEPS),
        ("prefork", KEEPS),
    ],
)
def test_a_message_that_is_cancelled_in_the_buffer_never_runs(
    redis_url: str, pool: str, arguments: tuple[str, ...]
) -> None:
    orchestrator = listened_app.make(redis_url)
    tasks = orchestrator.app.tasks
    for number in range(SHORT):
        orchestrator.app.send_task("plain.quick", (number,))
    orchestrator.app.send_task("plain.hold", (0,))
    delivery = orchestrator.send(tasks["plain.hooked"].s(1))
    orchestrator.app.send_task("plain.hooked", (2,))
    options: dict[str, Any] = {"pool": pool, "queues": "celery", "arguments": arguments}

    def row() -> LedgerRow:
        (row,) = [row for row in orchestrator.ledger() if row.queue == "celery"]
        return row

    with WorkerProcess(listened_app.__name__, redis_url, **options) as w, Redis.from_url(redis_url) as redis:
        eventually(lambda: row().handled == SHORT and row().held >= 1, WAIT_S, w.log)
        delivery.cancel()
        if pool == "solo":
            assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)
        redis.rpush("test:go:0", 1)
        assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)
        eventually(lambda: row().handled == SHORT + 2, WAIT_S, w.log)
        noted = redis.lrange("test:noted", 0, -1)
        assert b"ran 2" in noted
        assert b"ran 1" not in noted
    assert (row().cancelled, row().lost) == (1, 0)
