"""`orchestrator supervise -A workers` on a machine without a Redis: each of its processes is killed in turn."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
from celery import Celery

from orchestrator import Orchestrator, load_settings
from tests.support.eventually import eventually
from tests.support.supervised import Supervised

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_all_processes_of_a_default_tree_are_killed_in_turn(tmp_path):
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", 6379)) == 0:
            pytest.skip("something listens at 127.0.0.1:6379")
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "C_FORCE_ROOT": ""}
    tree = Supervised(tmp_path, None, "-A", "workers", environment=environment)
    try:
        tree.wait_for("all are ready", 90)
        url = "redis://127.0.0.1:6379/0"
        sender = Orchestrator(Celery("workers", broker=url, set_as_current=False), load_settings(broker_url=url))
        names = [path for path in tree.tree() if path]
        assert names[:3] == ["redis", "manager", "beat"]
        for name in names:
            before = pids(tree)
            os.kill(before[name], signal.SIGKILL)
            eventually(partial(is_ready_again, tree, name, before[name]), 90)
            # Nobody is restarted for another one, not even for Redis.
            assert {one for one, pid in pids(tree).items() if pid != before[one]} == {name}
        rows = eventually(lambda: [*sender.ledger(), sender.housekeeping_ledger()], 30)
        assert [row.lost for row in rows] == [0] * len(rows)
        assert tree.stop(60) == 0
        assert tree.members() == []
        lines = [*tree.taken, *tree.all_lines()]
        shown = "\n".join(lines)
        assert sum("pool solo, concurrency 1, queues monitor-manager" in line for line in lines) == 2
        # Neither Celery's banner, nor its warning of root at each start, nor advice to start what the tree restarts.
        for unwanted in ("[config]", "LocalTime", "superuser", "in place of", "no beat asks"):
            assert unwanted not in shown
        assert shown.count("run as root") == int(os.geteuid() == 0)
        assert "the tree has ended in" in lines[-1]
    finally:
        tree.close()


def pids(tree) -> dict[str, int]:
    return {path: row["pid"] for path, row in tree.tree().items() if path}


def is_ready_again(tree, name, former) -> bool:
    rows = tree.tree()
    return rows[name]["pid"] != former and all(row["state"] == "ready" for row in rows.values())
