"""A key that something else has written stops no worker: it names the key, waits, and goes on when that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

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
            eventually(
                lambda: worker.log().count(named(mailbox, "stream")) > 1 or not worker.is_running, 20, worker.log
            )
            assert worker.is_running, worker.log()
        broker.send("note", "after")
        eventually(lambda: broker.done() == {"after": 1}, 20, worker.log)
        assert "Unrecoverable" not in worker.log()


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
