"""docs/examples/saga.py really runs, and a trip stays whole when workers are killed while they book it and pay."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import make
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

EXAMPLES = ROOT / "docs" / "examples"


class Saga:
    """The example's processes; each agent's database is a file, and a handler stands while its file is locked."""

    def __init__(self, url: str, directory: Path, started: ExitStack) -> None:
        self._directory = directory
        self._started = started
        self._url = url
        self._environment = {
            "PYTHONPATH": f"{EXAMPLES}:{ROOT}",
            "ORCHESTRATOR_BROKER_URL": url,
            "SAGA_DIRECTORY": str(directory),
        }
        self._orchestrator = make(url)
        started.callback(self._orchestrator.app.close)

    def worker(self, name: str, queues: str) -> WorkerProcess:
        """A worker of some of the agents."""
        worker = WorkerProcess("saga", self._url, name=name, queues=queues, environment=self._environment)
        return self._started.enter_context(worker)

    def book(self, trip: str) -> subprocess.Popen[str]:
        """Run the example as a user does."""
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "saga.py"), trip],
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.callback(_end, process)
        return process

    @contextmanager
    def locked(self, agent: str) -> Iterator[None]:
        """While nothing can be entered by an agent."""
        database = sqlite3.connect(self._directory / f"{agent}.db")
        database.execute("CREATE TABLE IF NOT EXISTS trips (trip TEXT PRIMARY KEY, done TEXT)")
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.rollback()
        database.close()

    def is_running(self, worker: WorkerProcess) -> bool:
        """Whether a handler runs in a worker."""
        found = [one for one in self._orchestrator.registry.incarnations() if one.id == worker.incarnation]
        return bool(found) and found[0].running == 1

    def entered(self, agent: str) -> list[Any]:
        """What an agent has done, by its trips."""
        database = sqlite3.connect(self._directory / f"{agent}.db", timeout=30)
        try:
            return database.execute("SELECT trip, done FROM trips ORDER BY trip").fetchall()
        finally:
            database.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.wait(timeout=60) == 0
    return process.stdout.read()


@pytest.mark.slow
def test_a_trip_outlives_the_workers_that_book_it_and_pay_for_it(tmp_path: Path) -> None:
    with EmbeddedServer() as server, ExitStack() as started:
        saga = Saga(server.url, tmp_path, started)
        trips = saga.worker("trips", "trips")
        others = saga.worker("others", "hotels,hostels,flights,weather")
        payments = saga.worker("payments", "payments")

        # The worker that books dies while a room is reserved for the trip: another one goes on with the same room.
        with saga.locked("hotels"):
            booking = saga.book("trip-1")
            eventually(lambda: saga.is_running(trips) and saga.is_running(others), timeout_s=20)
            trips.kill()
        saga.worker("trips-again", "trips")
        assert "'booked': True" in (text := _said(booking))
        assert "'paid': 'paid'" in text
        assert saga.entered("flights") == [("trip-1", "a seat")]
        assert saga.entered("payments") == [("trip-1", "paid")]

        # The worker that pays dies while it does, and there is no other: the fallback pays.
        with saga.locked("payments"):
            booking = saga.book("trip-2")
            eventually(lambda: saga.is_running(payments), timeout_s=20)
            payments.kill()
            assert "'booked': True" in (text := _said(booking))
            assert "'paid': 'later'" in text
        assert saga.entered("payments") == [("trip-1", "paid")]
        saga.worker("payments-again", "payments")
        eventually(lambda: saga.entered("payments") == [("trip-1", "paid"), ("trip-2", "paid")], timeout_s=20)

        # What cannot be finished is taken back.
        assert "'booked': False" in _said(saga.book("nowhere"))
        eventually(lambda: ("nowhere", None) in saga.entered("hotels"), timeout_s=20)
        eventually(lambda: ("nowhere", None) in saga.entered("payments"), timeout_s=20)
