"""Bulkheads on real workers: never more in flight, and no permit leaks when a caller or a callee is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator import BulkheadFull, Orchestrator
from tests.apps import bulkhead_app
from tests.apps.bulkhead_app import Quote
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

APP = "tests.apps.bulkhead_app"

_ASK_AND_DIE = """
import os, signal, sys
from tests.apps.bulkhead_app import Quote, make
make(sys.argv[1]).ask("billing", Quote(hold=True), timeout_s=30)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = bulkhead_app.make(redis_url)
    yield made
    made.app.close()


def in_flight(orchestrator: Orchestrator) -> int:
    store: Any = orchestrator.runtime.store
    count: int = store.client.zcard(store.keys.bulkhead("billing"))
    return count


def test_of_many_callers_no_more_than_may_are_served_at_once_and_all_permits_come_back(
    orchestrator: Orchestrator, redis_url: str
) -> None:
    """A worker that is killed while it serves them leaves none behind either."""
    client: Any = orchestrator.runtime.store.client

    def call(number: int) -> Any:
        return orchestrator.call("billing", Quote(number=number), timeout_s=60)

    with WorkerProcess(APP, redis_url, pool="threads", concurrency=8) as worker:
        eventually(lambda: orchestrator.registry.hosted("billing", "billing"), 15, worker.log)
        with ThreadPoolExecutor(12) as callers:
            results = list(callers.map(call, range(60)))
        assert results == list(range(60)), "those that waited have got their turn"
        assert 1 <= int(client.get("test:most")) <= 3, "more than three were served at once"
        assert in_flight(orchestrator) == 0
        held = [orchestrator.ask("billing", Quote(hold=True), timeout_s=30) for _ in range(2)]
        killed = subprocess.run(
            [sys.executable, "-c", _ASK_AND_DIE, redis_url], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        eventually(lambda: client.llen("test:held") == 3, 15, worker.log)
        worker.kill()
        with pytest.raises(BulkheadFull):
            orchestrator.ask("billing", Quote(), timeout_s=0.3)
    assert in_flight(orchestrator) == 3, "they will be served again, that of the killed caller, too"
    client.set("test:go", 1)
    with WorkerProcess(APP, redis_url, pool="threads", concurrency=8):
        assert [asked.reply() for asked in held] == [0, 0]
        eventually(lambda: in_flight(orchestrator) == 0, 15)
        assert orchestrator.call("billing", Quote(number=7), timeout_s=20) == 7
