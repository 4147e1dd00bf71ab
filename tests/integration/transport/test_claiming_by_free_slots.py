"""A worker claims what it can run, so that what waits behind a slow message runs on whoever is free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Orchestrator, load_settings
from orchestrator.worker.prefetch import claim_by_free_slots
from tests.apps import listened_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.listened_app"


def state(orchestrator: Orchestrator) -> tuple[int, int]:
    """How many messages wait in the plain tasks' mailbox, and how many are held."""
    found = [one for one in orchestrator.mailboxes() if one.queue == "celery"]
    return (found[0].waiting, found[0].held) if found else (0, 0)


@pytest.mark.parametrize(("pool", "concurrency"), [("solo", 1), ("threads", 2), ("prefork", 2), ("gevent", 2)])
def test_what_waits_behind_slow_messages_runs_on_another_worker(redis_url: str, pool: str, concurrency: int) -> None:
    orchestrator = listened_app.make(redis_url)
    options: dict[str, Any] = {"pool": pool, "concurrency": concurrency, "queues": "celery"}
    with WorkerProcess(APP, redis_url, name="slow", **options) as slow, Redis.from_url(redis_url) as redis:
        for number in range(concurrency):
            orchestrator.app.send_task("plain.hold", (number,))
        eventually(lambda: state(orchestrator) == (0, concurrency), 20, slow.log)
        for number in range(3):
            orchestrator.app.send_task("plain.hooked", (number,))
        with WorkerProcess(APP, redis_url, name="free", queues="celery") as free:
            ran = [f"ran {number}".encode() for number in range(3)]
            eventually(lambda: set(ran) <= set(redis.lrange("test:noted", 0, -1)), 20, free.log)
            eventually(lambda: state(orchestrator) == (0, concurrency), 20, free.log)
            for number in range(concurrency):
                redis.rpush(f"test:go:{number}", 1)
            eventually(lambda: state(orchestrator) == (0, 0), 20, slow.log)


@pytest.mark.parametrize(("pool", "concurrency"), [("solo", 1), ("threads", 2), ("prefork", 2), ("gevent", 2)])
def test_what_was_claimed_ahead_of_slow_messages_runs_on_another_worker(
    redis_url: str, pool: str, concurrency: int
) -> None:
    """Short messages have a worker claim ahead; then come slow ones."""
    orchestrator = listened_app.make(redis_url)
    orchestrator.app.send_task("plain.hooked", (-1,))
    for number in range(200):
        orchestrator.app.send_task("plain.quick", (number,))
    for number in range(concurrency):
        orchestrator.app.send_task("plain.hold", (number,))
    for number in range(30):
        orchestrator.app.send_task("plain.hooked", (number,))
    options: dict[str, Any] = {"pool": pool, "concurrency": concurrency, "queues": "celery"}
    with WorkerProcess(APP, redis_url, name="slow", **options) as slow, Redis.from_url(redis_url) as redis:
        eventually(lambda: state(orchestrator) == (30, concurrency), 20, slow.log)
        with WorkerProcess(APP, redis_url, name="free", queues="celery") as free:
            ran = [f"ran {number}".encode() for number in range(30)]
            eventually(lambda: state(orchestrator) == (0, concurrency), 20, free.log)
            noted = [line for line in redis.lrange("test:noted", 0, -1) if line.startswith(b"ran ")]
            assert noted == [b"ran -1", *ran]
            for number in range(concurrency):
                redis.rpush(f"test:go:{number}", 1)
            eventually(lambda: state(orchestrator) == (0, 0), 20, slow.log)
    (row,) = [row for row in orchestrator.ledger() if row.queue == "celery"]
    assert (row.handled, row.redelivered, row.restarted) == (231 + concurrency, 0, 0)


@pytest.mark.parametrize("multiplier", ["4", "2"])
def test_the_option_of_the_worker_wins(redis_url: str, multiplier: str) -> None:
    orchestrator = listened_app.make(redis_url)
    arguments = ("--prefetch-multiplier", multiplier)
    with WorkerProcess(APP, redis_url, pool="threads", queues="celery", arguments=arguments) as worker:
        for number in range(6):
            orchestrator.app.send_task("plain.hold", (number,))
        held = int(multiplier)
        eventually(lambda: state(orchestrator) == (6 - held, held), 20, worker.log)


@pytest.mark.parametrize("setting", ["worker_prefetch_multiplier", "CELERYD_PREFETCH_MULTIPLIER"])
@pytest.mark.parametrize("value", [4, 0, 64])
def test_the_users_setting_wins_be_it_the_default_one(setting: str, value: int) -> None:
    app = Celery("set", set_as_current=False)
    app.config_from_object({setting: value})
    Orchestrator(app, load_settings())
    worker = SimpleNamespace(app=app, prefetch_multiplier=value)
    assert not claim_by_free_slots(worker)
    assert worker.prefetch_multiplier == value


def test_a_worker_whose_tasks_collect_messages_keeps_celerys_default() -> None:
    app = Celery("collecting", set_as_current=False)
    Orchestrator(app, load_settings())

    def collect() -> None: ...

    app.task(collect, name="batch", Strategy="celery.worker.strategy:other", shared=False)
    worker = SimpleNamespace(app=app, prefetch_multiplier=4)
    assert not claim_by_free_slots(worker)
    assert worker.prefetch_multiplier == 4


def test_without_a_word_of_the_user_it_is_one() -> None:
    app = Celery("unset", set_as_current=False)
    Orchestrator(app, load_settings())
    worker = SimpleNamespace(app=app, prefetch_multiplier=4)
    assert claim_by_free_slots(worker)
    assert worker.prefetch_multiplier == 1
