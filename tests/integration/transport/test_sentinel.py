"""Failover by Redis Sentinel: the primary is killed, and every worker consumes from the replica within seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from tests.support.bare_broker import TRANSPORT, BareBroker
from tests.support.eventually import eventually
from tests.support.sentinel import MASTER, Watched, watched_pair
from tests.support.worker_process import WorkerProcess, logs_of

APP = "tests.apps.bare"
POOLS = ("prefork", "threads", "solo", "gevent")


@pytest.fixture
def watched() -> Iterator[Watched]:
    with watched_pair() as watched:
        yield watched


def test_every_worker_consumes_again_after_a_failover(watched: Watched, redis_url: str) -> None:
    seen = BareBroker(redis_url)
    sender = Celery("sender", broker=watched.url, set_as_current=False)
    sender.conf.update(
        broker_transport=TRANSPORT, broker_transport_options={"master_name": MASTER}, task_ignore_result=True
    )
    environment = {
        "ORCHESTRATOR_BROKER_URL": watched.url,
        "BARE_OPTIONS": json.dumps({"master_name": MASTER}),
        "BARE_RECORD_URL": redis_url,
    }
    workers = [
        WorkerProcess(APP, watched.primary.url, name=pool, pool=pool, queues=pool, environment=environment)
        for pool in POOLS
    ]
    try:
        for worker in workers:
            worker.start(wait=False)
        for pool in POOLS:
            sender.send_task("note", args=[f"before {pool}"], queue=pool)
        eventually(lambda: len(seen.done()) == len(POOLS), timeout_s=30, describe=logs_of(*workers))

        watched.fail_over()
        for pool in POOLS:
            sender.send_task("note", args=[f"after {pool}"], queue=pool)
        eventually(
            lambda: {f"after {pool}" for pool in POOLS} <= set(seen.done()),
            timeout_s=30,
            describe=lambda: "\n".join(worker.log() for worker in workers),
        )
    finally:
        for worker in workers:
            worker.close()
        sender.close()
        seen.close()
