"""Whose a process is, while it does not show that: between two programs, and at its end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.supervisor.processes import proc
from orchestrator.supervisor.processes.proc import is_between_programs, kill_tree, variable_of
from orchestrator.supervisor.reading.variables import TREE_VARIABLE


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the mark of a tree."""
    process = subprocess.Popen(["sleep", "1000"], env={**os.environ, TREE_VARIABLE: str(tmp_path)})
    yield process
    process.kill()
    process.wait()


def is_between_once(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """Have the first look at a process find it within ``execve``, where it may be kept for milliseconds."""
    looks = iter([True])

    def environment_of(of: int, name: str) -> str:
        return "" if of == pid and next(looks, False) else variable_of(of, name)

    monkeypatch.setattr(proc, "variable_of", environment_of)
    between = iter([True])
    monkeypatch.setattr(proc, "is_between_programs", lambda of: of == pid and next(between, False))


def test_one_that_is_about_to_run_another_program_ends_with_its_tree(
    marked: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it showed no mark when the only look came, and survived."""
    is_between_once(monkeypatch, marked.pid)

    assert kill_tree(str(tmp_path)) == 1
    assert marked.wait(20) == -signal.SIGKILL


def test_processes_have_ended_when_their_tree_was_killed(
    marked: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: one that is ending shows no mark, and was not waited for; its port was still taken."""
    sent: list[int] = []
    pauses = iter(range(1, 100))

    def environment_of(of: int, name: str) -> str:
        return "" if sent and of == marked.pid else variable_of(of, name)

    def pause(_: float) -> None:
        if next(pauses) == 2:
            marked.kill()
            marked.wait()

    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: sent.append(1))
    monkeypatch.setattr(proc, "variable_of", environment_of)
    monkeypatch.setattr(proc, "sleep", pause)
    assert kill_tree(str(tmp_path)) == 1
    assert marked.poll() == -signal.SIGKILL


def test_one_that_runs_a_program_or_has_ended_is_not_between_two(marked: subprocess.Popen[bytes]) -> None:
    assert not is_between_programs(os.getpid())
    marked.kill()
    os.waitid(os.P_PID, marked.pid, os.WEXITED | os.WNOWAIT)
    assert not is_between_programs(marked.pid)
    marked.wait()
    assert not is_between_programs(marked.pid)


def test_without_variables_a_process_is_not_between_two_programs() -> None:
    with subprocess.Popen(["env", "-i", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"cat\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"cat\n"
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        assert not is_between_programs(process.pid)
