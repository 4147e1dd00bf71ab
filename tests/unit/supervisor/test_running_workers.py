"""Who died with an earlier supervisor is known from its state directory."""

from __future__ import annotations

import os

from orchestrator.supervisor import running_workers
from orchestrator.supervisor.processes.proc import born
from orchestrator.supervisor.running_workers import RunningWorker


def test_those_that_have_ended_are_taken_once(tmp_path):
    dead = RunningWorker(os.getpid(), 1, 5.0, "shop", "billing@%h")
    running_workers.add(tmp_path, dead)
    (tmp_path / "worker-7").write_text("{")
    (tmp_path / "worker-8").write_text('{"pid": 8}')

    assert running_workers.take_dead(tmp_path) == [dead]
    assert running_workers.take_dead(tmp_path) == []


def test_one_that_runs_is_not_dead(tmp_path):
    running_workers.add(tmp_path, RunningWorker(os.getpid(), born(os.getpid()), 5.0, "shop", "billing@%h"))

    assert running_workers.take_dead(tmp_path) == []


def test_one_whose_end_is_reported_is_not_reported_again(tmp_path):
    running_workers.add(tmp_path, RunningWorker(7, 1, 5.0, "shop", "billing@%h"))
    running_workers.remove(tmp_path, 7)

    assert running_workers.take_dead(tmp_path) == []
