"""A key that something else has written stops no worker: it names the key, waits, and goes on when that is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator import Orchestrator, OrchestratorError
from tests.apps import junk_app
from tests.apps.junk_app import Work
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"


@contextmanager
def junk_at(broker: BareBroker, key: str) -> Iterator[None]:
    """A text at that key, and afterwards again what was there."""
    kept = f"{key}|kept"
    if broker.redis.exists(key):
        broker.redis.rename(key, kept)
    broker.redis.set(key, "junk")
    yield
    broker.redis.delete(key)
    if broker.redis.exists(kept):
        broker.redis.rename(kept, key)


def named(key: str, needed: str) -> str:
    return f"key '{key}' in Redis is a string, written by something else; allowed: a {needed}"


@pytest.mark.parametrize("level", ["0", "returned-9"])
def test_a_worker_outlives_a_mailbox_of_another_type_and_names_it(broker: BareBroker, level: str) -> None:
    """Regression: it ended with "Unrecoverable error: WRONGTYPE", and so did each one that was started after it."""
    mailbox = broker.store.keys.stream("celery", level)
    with WorkerProcess(APP, broker.url) as worker:
        with junk_at(broker, mailbox):
            eventually(lambda: named(mailbox, "stream") in worker.log() or not worker.is_running, 20, worker.log)
            assert worker.is_running, worker.log()
        broker.send("note", "after")
        eventually(lambda: broker.done() == {"after": 1}, 20, worker.log)
        assert "Unrecoverable" not in worker.log()
        assert worker.log().count(named(mailbox, "stream")) == 1


def test_a_worker_starts_beside_keys_of_another_type_and_waits(broker: BareBroker) -> None:
    k = broker.store.keys
    with junk_at(broker, k.stream("celery", "0")), junk_at(broker, k.queues):
        worker = WorkerProcess(APP, broker.url)
        worker.start(wait=False)
        eventually(lambda: named(k.queues, "set") in worker.log() or not worker.is_running, 20, worker.log)
        broker.redis.delete(k.queues)
        mailbox = named(k.stream("celery", "0"), "stream")
        eventually(lambda: mailbox in worker.log() or not worker.is_running, 20, worker.log)
        assert worker.is_running, worker.log()
    broker.send("note", "after")
    eventually(lambda: broker.done() == {"after": 1}, 20, worker.log)
    worker.close()


@pytest.fixture
def sender(redis_url: str) -> Iterator[Orchestrator]:
    """A sender to several agents, of which one worker serves all."""
    made = junk_app.make(redis_url)
    yield made
    made.app.close()


@pytest.mark.parametrize("starts", ["before", "after"])
@pytest.mark.parametrize(
    ("key", "agent"),
    [
        ("q:0:near", "near"),
        ("q:returned-9:near", "near"),
        ("q:bell:near", "near"),
        ("delayed:near", "near"),
        ("flow:near", "near"),
        ("permits:laned", "laned"),
        ("permits-used:laned", "laned"),
        ("q:lanes:laned", "laned"),
    ],
)
def test_a_mailbox_that_cannot_be_read_stops_no_other(
    sender: Orchestrator, redis_url: str, key: str, agent: str, starts: str
) -> None:
    """Regression: the worker read none of its mailboxes until the key was gone."""
    broken = BareBroker(redis_url)
    worker = WorkerProcess("tests.apps.junk_app", redis_url, pool="threads", concurrency=4)
    with contextlib.closing(worker), contextlib.closing(broken):
        if starts == "before":
            worker.start()
            sender.send(agent, Work(what="before")).wait(timeout_s=20)
        with junk_at(broken, f"orc:{key}"):
            if starts == "after":
                worker.start()
            said = f"mailbox {agent} cannot be read"
            eventually(lambda: said in worker.log(), 20, worker.log)
            for number in range(3):
                sender.send("far", Work(what=f"{number}")).wait(timeout_s=20)
            assert worker.log().count(said) == 1
            assert f"key 'orc:{key}' in Redis is a string" in worker.log()
        sender.send(agent, Work(what="after")).wait(timeout_s=20)
        assert "Connection to broker lost" not in worker.log()


@pytest.mark.parametrize("value", ["many", "-1", "1e400"])
def test_a_bound_that_is_no_number_stops_no_other_mailbox(sender: Orchestrator, redis_url: str, value: str) -> None:
    broken = BareBroker(redis_url)
    with contextlib.closing(broken), WorkerProcess("tests.apps.junk_app", redis_url, pool="threads") as worker:
        fields = broken.redis.hgetall("orc:flow:laned")
        broken.redis.hset("orc:flow:laned", mapping=dict.fromkeys(fields, value))
        with contextlib.suppress(OrchestratorError):
            sender.send("laned", Work(what="lane"))
        sender.send("far", Work(what="far")).wait(timeout_s=20)
        assert worker.is_running
