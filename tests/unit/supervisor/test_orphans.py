"""Whose the children are that a supervisor has inherited, where one is within ``execve`` as it is looked at."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.processes import children as module
from orchestrator.supervisor.processes import proc
from orchestrator.supervisor.processes.children import Children
from orchestrator.supervisor.processes.output import Console
from orchestrator.supervisor.processes.proc import born, variable_of
from orchestrator.supervisor.processes.running import Running
from orchestrator.supervisor.reading.variables import CHILD_VARIABLE, TREE_VARIABLE
from orchestrator.supervisor.state_directory import StateDirectory
from tests.support.processes import shown


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    state = StateDirectory(tmp_path)
    made = Children(state, Loop(), Console(1, colours=False), lambda _: None)
    yield made
    made.lifeline.release()
    os.waitpid(made.lifeline.pid, 0)
    state.close()


@pytest.fixture
def ended(children: Children) -> Running:
    """A child that has ended, and may have left something."""
    process = subprocess.Popen(["true"])
    nothing: Any = None
    running = Running("a", nothing, nothing, run=1, pid=process.pid, born=born(os.getpid()))
    process.wait()
    children._leaving.append(running)
    return running


@pytest.fixture
def orphan(children: Children, ended: Running, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What it has left: a process with its marks."""
    marks = {TREE_VARIABLE: os.path.realpath(tmp_path), CHILD_VARIABLE: "a#1"}
    process = subprocess.Popen(["sleep", "1000"], env={**os.environ, **marks}, start_new_session=True)
    shown(process.pid, lambda: variable_of(process.pid, CHILD_VARIABLE))
    yield process
    process.kill()
    process.wait()


def hide(monkeypatch: pytest.MonkeyPatch, pid: int, name: str, at: int, *, is_noticed: bool) -> None:
    """Have a process be within ``execve`` as a variable is read for the ``at``-th time."""
    reads = 0

    def variable_while_hidden(of: int, read: str) -> str:
        nonlocal reads
        if (of, read) != (pid, name):
            return variable_of(of, read)
        reads += 1
        return "" if reads == at else variable_of(of, read)

    for where in (module, proc):
        monkeypatch.setattr(where, "variable_of", variable_while_hidden)
        monkeypatch.setattr(where, "is_between_programs", lambda of: is_noticed and of == pid and reads == at)


def test_one_that_ran_another_program_between_two_looks_is_not_killed_as_one_without_a_mark(
    children: Children, orphan: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it had a mark before and after, but not as that was read."""
    killed: list[int] = []

    def kill(pid: int) -> bool:
        killed.append(pid)
        return True

    monkeypatch.setattr(module, "kill_child", kill)
    hide(monkeypatch, orphan.pid, TREE_VARIABLE, 1, is_noticed=False)
    assert children._kill_hidden_orphans(), "it may be one"
    assert not children._kill_hidden_orphans()
    assert killed == []


def test_a_child_has_not_ended_while_what_it_has_left_runs_another_program(
    children: Children, ended: Running, orphan: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was reported, and started again beside its orphan."""
    gone: list[Running] = []
    monkeypatch.setattr(children, "_gone", gone.append)
    hide(monkeypatch, orphan.pid, CHILD_VARIABLE, 2, is_noticed=True)
    children._see_out()
    assert gone == []
    children._see_out()
    assert orphan.wait(20) == -signal.SIGKILL
    children._see_out()
    assert gone == [ended]
