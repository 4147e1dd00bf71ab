"""What Celery does on its own Redis transport, done on this one: one worker for all of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from orchestrator.embedded import EmbeddedServer
from tests.apps.whole import app as whole
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.scheduled_messages import fall_due
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.whole"
WAIT_S = 20


class Shop:
    """The worker, its Redis, and an app to send with."""

    def __init__(self, url: str, worker: WorkerProcess) -> None:
        self.url = url
        self.worker = worker
        self.broker = BareBroker(url)
        self.app: Any = whole
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.tasks[task].apply_async(args, **options)

    def ran(self, name: str, times: int = 1) -> list[tuple[float, int]]:
        """When and where it ran, once it has so often."""
        eventually(lambda: self.redis.llen(f"test:ran:{name}") >= times, WAIT_S, describe=self.worker.log)
        rows = [row.split() for row in self.redis.lrange(f"test:ran:{name}", 0, -1)]
        return [(float(when), int(pid)) for when, pid in rows]

    def never_ran(self, name: str) -> bool:
        """Whether it has not run by the time that something sent later has."""
        self.send("note", f"after {name}").get(timeout=WAIT_S)
        return not self.redis.exists(f"test:ran:{name}")

    def settled(self) -> None:
        eventually(lambda: self.broker.ledger().pending == 0, WAIT_S, describe=self.worker.log)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with EmbeddedServer() as server:
        whole.conf.update(broker_url=server.url, result_backend=server.url)
        worker = WorkerProcess(
            APP, server.url, pool="prefork", concurrency=1, queues="celery,europe,everybody",
            arguments=("-E", "--autoscale=3,1"), environment={"AUTOSCALE_KEEPALIVE": "0.5"},
        )  # fmt: skip
        with worker:
            shop = Shop(server.url, worker)
            yield shop
            shop.broker.close()
            shop.redis.close()
            whole.close()


@pytest.fixture(autouse=True)
def _balanced(shop: Shop) -> Iterator[None]:
    yield
    shop.settled()
    assert shop.broker.ledger().lost == 0


def test_a_chord_in_a_chain_in_a_group(shop: Shop) -> None:
    add, total = shop.app.tasks["add"], shop.app.tasks["total"]
    sums = chord([add.s(n, n) for n in range(5)], total.s())
    canvas = group(chain(sums, add.s(100)), chain(add.s(1, 2), group(add.s(n) for n in (10, 20)), total.s()))
    assert canvas.apply_async().get(timeout=WAIT_S) == [120, 36]


def test_a_topic_exchange_routes_by_pattern(shop: Shop) -> None:
    for key in ("orders.eu", "orders.us"):
        # Only who has declared an exchange knows that it is not a direct one.
        shop.send("note", key, exchange="topics", routing_key=key, declare=[shop.app.amqp.queues["europe"]])
    shop.ran("orders.eu")
    assert shop.never_ran("orders.us")


def test_a_broadcast_reaches_every_worker(shop: Shop) -> None:
    second = WorkerProcess(APP, shop.url, name="w2", pool="threads", queues="everybody,spare")
    with second:

        def everywhere() -> bool:
            # Whoever subscribes has missed what was before; so it is sent again.
            shop.send("note", "all", queue="everybody", declare=[shop.app.amqp.queues["everybody"]])
            where = {pid for _, pid in shop.ran("all")}
            return second.pid in where and len(where) > 1

        eventually(everywhere, describe=second.log)


def test_a_rate_limit_is_kept(shop: Shop) -> None:
    for _ in range(4):
        shop.send("limited", "slow")
    whens = [when for when, _ in shop.ran("slow", 4)]
    # Of 1.5 s: the first one may begin late.
    assert whens[-1] - whens[0] > 0.5


def test_what_is_revoked_does_not_run_and_what_runs_is_terminated(shop: Shop) -> None:
    later = shop.send("note", "revoked", countdown=60)
    running = shop.send("hold", "terminated")
    shop.ran("terminated")
    assert shop.app.control.revoke(later.id, reply=True, limit=1, timeout=WAIT_S), shop.worker.log()
    fall_due(shop.redis, shop.broker.store.keys, "celery")
    running.revoke(terminate=True)
    for result in (later, running):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WAIT_S)
    assert shop.never_ran("revoked")
    eventually(lambda: shop.broker.ledger().cancelled == 2)


def test_what_has_expired_does_not_run(shop: Shop) -> None:
    shop.send("note", "expired", countdown=0.3, expires=0.1)
    shop.settled()
    assert shop.never_ran("expired")
    assert shop.broker.ledger().expired == 1


def test_a_task_may_refuse_its_message(shop: Shop) -> None:
    assert shop.send("reluctant", "reluctant").get(timeout=WAIT_S) == "reluctant"
    shop.send("refused", "refused")
    shop.ran("refused")
    eventually(lambda: [letter for letter in shop.broker.letters() if "refused" in letter["m"]])


def test_inspect_and_control(shop: Shop) -> None:
    control = shop.app.control
    inspect = control.inspect(timeout=WAIT_S, limit=1)

    def only(answers: dict[str, Any] | None) -> Any:
        assert answers is not None
        (answer,) = answers.values()
        return answer

    running, waiting = shop.send("hold", "inspected"), shop.send("note", "far", countdown=3600)
    shop.ran("inspected")
    eventually(lambda: [each["id"] for each in only(inspect.active())] == [running.id])
    # What is scheduled waits in Redis, not in the worker, and is told of all the same.
    (scheduled,) = only(inspect.scheduled())
    eta = datetime.fromisoformat(scheduled["eta"])
    assert 3500 < (eta - datetime.now(UTC)).total_seconds() <= 3600
    told = scheduled["request"]
    assert (told["id"], told["name"], told["args"], told["kwargs"]) == (waiting.id, "note", ["far"], {})
    assert (told["acknowledged"], told["time_start"], told["worker_pid"]) == (False, None, None)
    assert told["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    assert {each["name"] for each in only(inspect.active_queues())} >= {"celery", "europe"}
    assert only(inspect.stats())["broker"]["transport"] == "orchestrator.transport:Transport"
    assert "note" in only(inspect.registered())

    control.add_consumer("extra", reply=True, timeout=WAIT_S, limit=1)
    shop.send("note", "extra 1", queue="extra")
    shop.ran("extra 1")
    control.cancel_consumer("extra", reply=True, timeout=WAIT_S, limit=1)
    shop.send("note", "extra 2", queue="extra")
    assert shop.never_ran("extra 2")
    with shop.app.connection_for_write() as connection:
        queue = shop.app.amqp.queues["extra"](connection.default_channel)
        assert queue.queue_declare(passive=True).message_count == 1
        assert queue.purge() == 1
        # The far one waits in this queue too, and is counted like any other.
        assert shop.app.amqp.queues["celery"](connection.default_channel).queue_declare(passive=True).message_count == 1
    shop.redis.rpush("test:go:inspected", "1")
    running.get(timeout=WAIT_S)
    assert shop.app.control.purge() == 1
    # A worker reports it, now or soon.
    eventually(lambda: waiting.state == "REVOKED")


def test_events_tell_what_happens_to_a_task(shop: Shop) -> None:
    seen: set[str] = set()
    stop = threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        seen.add(event["type"])

    def listen() -> None:
        with shop.app.connection_for_read() as connection:
            receiver = shop.app.events.Receiver(connection, handlers={"*": on_event})
            with receiver.consumer_context() as (own, _, _):
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        own.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    wanted = {"task-sent", "task-received", "task-started", "task-succeeded"}

    def all_seen() -> bool:
        # Whoever subscribes has missed what was before; so it is sent again.
        shop.send("note", "told").get(timeout=WAIT_S)
        return wanted <= seen

    try:
        eventually(all_seen, WAIT_S, describe=lambda: str(seen))
    finally:
        stop.set()
        thread.join(timeout=10)


def test_a_pool_grows_with_its_work_and_shrinks_again(shop: Shop) -> None:
    for name in ("g1", "g2", "g3"):
        shop.send("hold", name)
    pids = {shop.ran(name)[0][1] for name in ("g1", "g2", "g3")}
    assert len(pids) == 3
    for name in ("g1", "g2", "g3"):
        shop.redis.rpush(f"test:go:{name}", "1")

    def processes() -> int:
        (stats,) = shop.app.control.inspect(timeout=WAIT_S, limit=1).stats().values()
        return len(stats["pool"]["processes"])

    eventually(lambda: processes() == 1, WAIT_S)
