"""What Celery's own commands, and a task's ``delay``, say where nothing listens at the broker's address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from chaos.forked_process import run as run_forked

DELAY = "from workers import orchestrator; orchestrator.app.send_task('auditor.Find')"


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def run(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ORCHESTRATOR_BROKER_URL": f"redis://:secret@127.0.0.1:{port}/0"}
    return run_forked([sys.executable, *arguments], env=environment)


@pytest.mark.parametrize("command", [("call", "auditor.Find"), ("status",), ("inspect", "ping"), ("control", "ping")])
def test_a_command_of_celerys_ends_with_one_line(port: int, command: tuple[str, ...]) -> None:
    done = run(port, "-m", "celery", "-A", "workers", *command)

    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: broker redis://:**@127.0.0.1:{port}/0 is not available: ")
    assert "ORCHESTRATOR_BROKER_URL" in line


def test_a_task_that_is_sent_raises_one_short_error(port: int) -> None:
    done = run(port, "-c", DELAY)

    lines = done.stderr.splitlines()
    assert lines[-1].startswith(
        f"kombu.exceptions.OperationalError: broker redis://:**@127.0.0.1:{port}/0 is not available: "
    )
    assert done.stderr.count("Traceback") == 1
    assert len(lines) < 10
