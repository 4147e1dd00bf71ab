"""A failed test leaves the servers and workers that it shares with others as it should have found them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support import shared_processes
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

APP = "tests.apps.bare"


@pytest.mark.parametrize("how", ["killed", "suspended"])
def test_servers_and_workers_run_again(how: str) -> None:
    with EmbeddedServer() as server, WorkerProcess(APP, server.url, name="shared") as worker:
        eventually(lambda: "ready." in worker.log(), describe=worker.log)
        of_both = [psutil.Process(server.pid), psutil.Process(worker.pid)]
        if how == "killed":
            worker.kill()
            server.kill()
        else:
            worker.signal(signal.SIGSTOP)
            server.pause()
        assert "ready." in dict(shared_processes.open_logs())["log of worker shared"]
        shared_processes.restore()
        if how == "killed":
            of_both = [psutil.Process(server.pid), psutil.Process(worker.pid)]
        eventually(lambda: all(process.status() != psutil.STATUS_STOPPED for process in of_both))
        eventually(lambda: worker.incarnation, describe=worker.log)
    assert "log of worker shared" not in dict(shared_processes.open_logs())
    shared_processes.restore()
    assert not server.is_running
    assert not worker.is_running


SHARING = """
import pytest
from orchestrator.embedded import EmbeddedServer
from redis import Redis

@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as server:
        yield server

def test_fails(server):
    server.kill()
    raise AssertionError("before it was started again")

def test_comes_after_it(server):
    assert Redis.from_url(server.url).ping()
"""


def test_one_failure_brings_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_sharing.py").write_text(SHARING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
