"""`orchestrator health` and a real worker: the probe as a container's keeper runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.command import main
from orchestrator.embedded import EmbeddedServer
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

PROBE = Path(sys.executable).parent / "orchestrator"


def health(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [PROBE, "health", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def wait_until(code: int, worker: WorkerProcess, *arguments: str) -> None:
    """Wait until the probe ends with this code; it is asked in this process, which starts no hundred others."""
    arguments = ("health", *arguments, "--pid", str(worker.pid))
    eventually(lambda: main(arguments) == code, timeout_s=30, describe=worker.log)
    assert health(*arguments[1:])[0] == code


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


def test_a_broker_outage_is_no_reason_to_restart_a_worker(server: EmbeddedServer) -> None:
    with WorkerProcess("tests.apps.shop", server.url, queues="billing,celery") as worker:
        pid = str(worker.pid)
        assert health("--pid", pid)[0] == 0
        # Without a monitor manager the worker itself sweeps, after a while.
        wait_until(0, worker, "--ready")
        code, said = health("--sweep", ORCHESTRATOR_BROKER_URL=server.url)
        assert (code, "sweeps unasked: no beat runs" in said) == (1, True)

        server.kill()
        wait_until(3, worker, "--ready")
        assert health("--pid", pid)[0] == 0
        assert health("--sweep", ORCHESTRATOR_BROKER_URL=server.url)[0] == 3
        server.restart()
        wait_until(0, worker, "--ready")

        worker.kill()
        assert health("--pid", pid)[0] == 1


def test_a_worker_that_starts_while_redis_is_away_is_alive(server: EmbeddedServer) -> None:
    """Otherwise it would be killed for not being up, and start again, for as long as the outage lasts."""
    server.kill()
    worker = WorkerProcess("tests.apps.shop", server.url, queues="billing")
    worker.start(wait=False)
    try:
        wait_until(0, worker)
        assert health("--ready", "--pid", str(worker.pid))[0] == 1
        server.restart()
        wait_until(0, worker, "--ready")
        worker.signal(signal.SIGTERM)
        eventually(lambda: not worker.is_running, timeout_s=20, describe=worker.log)
        code, said = health("--pid", str(worker.pid))
        # Workers of another test may be named after it.
        assert code == 1
        assert said.startswith(f"no worker with pid {worker.pid} runs here")
    finally:
        worker.close()
