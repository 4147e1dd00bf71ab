"""Whose SIGTERM it was: what a process under a supervisor finds when it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.supervisor import planned_stops
from orchestrator.supervisor.reading.variables import TREE_VARIABLE


def test_a_stop_is_announced_to_its_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TREE_VARIABLE, str(tmp_path))
    planned_stops.announce(tmp_path, os.getppid())
    assert not planned_stops.is_announced()
    planned_stops.announce(tmp_path, os.getpid())
    assert planned_stops.is_announced()
    planned_stops.withdraw(tmp_path, os.getpid())
    assert not planned_stops.is_announced()


def test_announcements_of_an_earlier_supervisor_are_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TREE_VARIABLE, str(tmp_path))
    planned_stops.announce(tmp_path, os.getpid())
    planned_stops.withdraw_all(tmp_path)
    assert not planned_stops.is_announced()


def test_outside_of_a_tree_nothing_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TREE_VARIABLE, raising=False)
    assert not planned_stops.is_announced()


def test_a_directory_that_is_not_there_hinders_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv(TREE_VARIABLE, str(gone))
    planned_stops.announce(gone, os.getpid())
    planned_stops.withdraw(gone, os.getpid())
    planned_stops.withdraw_all(gone)
    assert not planned_stops.is_announced()
