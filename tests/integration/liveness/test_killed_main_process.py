"""SIGKILL of a prefork worker's main process alone: its pool processes end with it; what they ran runs elsewhere."""

from __future__ import annotations

import os
import signal

from orchestrator import Handled
from orchestrator.embedded import EmbeddedServer
from orchestrator.supervisor.processes.proc import born, is_running
from tests.apps import leases_app
from tests.apps.leases_app import Hold
from tests.support.eventually import eventually
from tests.support.notes_in_redis import take_notes
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.leases_app"


def test_nothing_runs_in_two_processes_at_once() -> None:
    """Celery has the kernel end pool processes with their main process: its death is the proof of theirs."""
    with EmbeddedServer() as server, WorkerProcess(APP, server.url, pool="prefork") as worker:
        orchestrator = leases_app.make(server.url)
        delivery = orchestrator.send("holder", Hold(name="a"))
        first = take_notes(server.url, "test:held")[0]
        began = born(first["pid"])
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: not is_running(first["pid"], began))
        with WorkerProcess(APP, server.url, name="w2") as other:
            second = take_notes(server.url, "test:held")[0]
            assert second["fence"] > first["fence"]
            orchestrator.runtime.store.client.rpush("test:go", "1")
            outcome = delivery.wait(timeout_s=20)
            assert isinstance(outcome, Handled), other.log()
            assert outcome.result == "held"
        orchestrator.app.close()
