"""A tree whose Redis is its child: what was accepted survives SIGKILL of the supervisor, and of Redis."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Orchestrator, load_settings
from orchestrator.embedded.ports import free_port
from tests.apps.supervised_app import Counter, Work
from tests.support.eventually import eventually
from tests.support.processes import is_gone

ROOT = Path(__file__).parents[3]

#: Messages that nobody has run when the supervisor is killed.
WAITING = 200


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(supervise, tmp_path, port):
    (tmp_path / "health").mkdir(mode=0o700)
    environment = {
        "ORCHESTRATOR_BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "ORCHESTRATOR_HEALTH_DIR": str(tmp_path / "health"),
        "PYTHONPATH": str(ROOT),
        "C_FORCE_ROOT": "1",
    }

    def starts():
        options = {"pool": "solo", "arguments": ["--without-gossip", "--without-mingle"]}
        tree = supervise(
            [
                {"id": "redis", "kind": "redis", "port": port},
                {"id": "manager", "kind": "worker", "queues": ["monitor-manager"], **options},
                {"id": "counter", "kind": "worker", "queues": ["counter"], "replicas": 2, **options},
            ],
            app="tests.apps.supervised_app",
            of_all=environment,
        )
        tree.wait_for("all are ready", 90)
        return tree

    return starts


def sender_to(port: int) -> Orchestrator:
    url = f"redis://127.0.0.1:{port}/0"
    sender = Orchestrator(Celery("supervised", broker=url, set_as_current=False), load_settings(broker_url=url))
    sender.host(Counter)
    return sender


@pytest.mark.timeout(240)
def test_what_was_accepted_runs_after_the_supervisor_was_killed_with_all_that_it_ran(start, port, tmp_path):
    tree = start()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    sender = sender_to(port)
    # Both workers are busy, and what is sent waits.
    for _ in range(2 + WAITING):
        sender.send("counter", Work(gate=str(gate)))
    eventually(lambda: len(list(tmp_path.glob("gate.*"))) == 2)
    members = tree.members()
    tree.process.send_signal(signal.SIGKILL)
    tree.process.wait()
    eventually(lambda: all(is_gone(pid) for pid in members))
    gate.unlink()
    gate.write_bytes(b"")

    tree = start()
    (row,) = eventually(lambda: [one for one in sender_to(port).ledger() if one.handled == 2 + WAITING], 60)
    assert (row.accepted, row.dead, row.pending, row.lost) == (2 + WAITING, 0, 0, 0)
    assert sorted(death.reason for death in sender_to(port).registry.deaths(10)) == ["killed"] * 3
    assert tree.stop(60) == 0
    assert tree.members() == []


def test_it_is_known_which_signal_has_killed_the_server(supervise, port):
    tree = supervise([{"id": "redis", "kind": "redis", "port": port}])
    tree.wait_for("all are ready", 60)
    with Redis(port=port) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    tree.wait_for("redis: process")

    # The supervisor may have known that it answers before the process above it did.
    (end,) = json.loads(tree.ask("--json", "why", "redis").stdout)["why"]["redis"]["ends"]
    assert end["how"] == "SIGKILL"
    assert end["last_words"][-1].startswith("error: the embedded Redis server ended ")
