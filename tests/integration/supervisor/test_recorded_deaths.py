"""What only a parent knows reaches Redis at once: how a worker has ended, and that a deployment is bad."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from orchestrator import Dead, Handled
from tests.apps.supervised_app import Work
from tests.support.eventually import eventually
from tests.support.named_pipes import write_to
from tests.support.supervised import Supervised, process


def recorders(tree: Supervised) -> list[int]:
    return [pid for pid in tree.members() if b"death_recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def are_ready(tree: Supervised) -> bool:
    states = [row["state"] for path, row in tree.tree().items() if path.startswith("agents/")]
    return states == ["ready", "ready"]


def test_a_killed_workers_message_runs_elsewhere_and_its_true_end_is_recorded(workers, orchestrator, tmp_path):
    tree = workers(2)
    tree.wait_for("all are ready", 60)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    delivery = orchestrator.send("counter", Work(gate=str(gate)))
    (started,) = eventually(lambda: list(tmp_path.glob("gate.*")))
    pid = int(started.suffix[1:])
    os.kill(pid, signal.SIGKILL)
    (again,) = eventually(lambda: [one for one in tmp_path.glob("gate.*") if one != started])
    write_to(gate)
    outcome = delivery.wait(timeout_s=20)

    assert isinstance(outcome, Handled)
    assert outcome.result == int(again.suffix[1:])
    death = orchestrator.registry.deaths(10)[0]
    assert (death.reason, death.error) == ("killed", "SIGKILL")
    assert death.by.startswith("supervisor@")
    tree.wait_for("fenced (killed); messages requeued: 1")
    why = json.loads(tree.ask("--json", "why", "agents/counter").stdout)["why"]
    ends = [end for story in why.values() for end in story["ends"]]
    assert [(end["how"], end["requeued"], end["incarnation"]) for end in ends] == [("SIGKILL", 1, death.incarnation)]
    # A SIGTERM is the tree's only if it has sent it.
    eventually(lambda: are_ready(tree), 60)
    os.kill(tree.tree()["agents/counter.1"]["pid"], signal.SIGTERM)
    eventually(lambda: orchestrator.registry.deaths(10)[0].reason == "drained", 30)
    tree.wait_for("agents/counter.1: process")
    eventually(lambda: are_ready(tree), 60)
    assert tree.stop() == 0
    assert [death.reason for death in orchestrator.registry.deaths(10)[:2]] == ["deployed", "deployed"]
    assert not list(tree.state.glob("planned-stop-*"))
    assert [row.lost for row in orchestrator.ledger()] == [0]


@pytest.mark.parametrize("hearts", [False, True])
def test_a_message_whose_workers_exit_with_code_0_is_poison(workers, orchestrator, tmp_path, hearts):
    tree = workers(1, hearts=hearts, intensity=10)
    tree.wait_for("all are ready", 60)
    (tmp_path / "bad").write_text("0")
    outcome = orchestrator.send("counter", Work()).wait(timeout_s=90)

    assert isinstance(outcome, Dead)
    assert outcome.reason == "poison"
    deaths = orchestrator.registry.deaths(10)
    assert {(death.reason, death.error.partition(":")[0]) for death in deaths} == {("crashed", "exit code 0")}
    (row,) = orchestrator.ledger()
    assert (row.dead, row.pending, row.lost) == (1, 0, 0)


def test_a_worker_with_a_health_directory_of_its_own_is_ready_and_its_death_recorded(workers, orchestrator, tmp_path):
    (own := tmp_path / "own").mkdir(mode=0o700)
    tree = workers(1, worker={"environment": {"ORCHESTRATOR_HEALTH_DIR": str(own)}})
    tree.wait_for("all are ready", 60)
    (health,) = own.glob("*.json")
    incarnation = json.loads(health.read_text())["incarnation"]
    os.kill(tree.tree()["agents/counter.1"]["pid"], signal.SIGKILL)
    (death,) = eventually(lambda: orchestrator.registry.deaths(10))

    assert (death.incarnation, death.reason) == (incarnation, "killed")
    assert tree.stop(60) == 0


def test_the_next_supervisor_reports_who_died_with_the_last_one(workers, orchestrator, tmp_path):
    tree = workers(1)
    tree.wait_for("all are ready", 60)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    orchestrator.send("counter", Work(gate=str(gate)))
    eventually(lambda: list(tmp_path.glob("gate.*")))
    tree.process.kill()
    tree.process.wait()
    # The first child is not ready, so no worker of the same name starts and finds the death.
    tree = workers(1, (process("first", ready="notify", ready_s=90),))
    (death,) = eventually(lambda: orchestrator.registry.deaths(10), 30)

    assert (death.reason, death.error) == ("killed", "its supervisor was killed")
    assert death.by.startswith("supervisor@")
    (row,) = orchestrator.ledger()
    assert (row.pending, row.lost) == (1, 0)
    assert not list(tree.state.glob("worker-*"))


def test_a_killed_death_recorder_is_replaced_and_records_what_it_has_missed(workers, orchestrator):
    tree = workers(1)
    tree.wait_for("all are ready", 60)
    worker = tree.tree()["agents/counter.1"]["pid"]
    (recorder,) = recorders(tree)
    # It is dead before it can record anything.
    for pid in (recorder, worker):
        os.kill(pid, signal.SIGKILL)
    (death,) = eventually(lambda: orchestrator.registry.deaths(10), 60)

    assert death.reason == "killed"
    tree.wait_for("agents/counter.1: process")
    eventually(lambda: tree.tree()["agents/counter.1"]["state"] == "ready", 60)
    assert recorders(tree) not in ([], [recorder])
    assert tree.stop(60) == 0


@pytest.mark.slow
def test_a_rolling_restart_ends_with_a_line_of_the_ledger(workers, orchestrator):
    tree = workers(2)
    tree.wait_for("all are ready", 60)
    for _ in range(20):
        orchestrator.send("counter", Work())
    eventually(lambda: [row.handled for row in orchestrator.ledger()] == [20])
    rolled = tree.ask("restart", "--rolling")

    assert rolled.stdout.splitlines()[-1] == "tests.apps.supervised_app: handled=0 lost=0 duplicated=0"
    assert rolled.returncode == 0
    assert [death.reason for death in orchestrator.registry.deaths(10)] == ["deployed", "deployed"]


def test_a_bad_deployment_burns_no_message(workers, orchestrator, tmp_path):
    (tmp_path / "bad").touch()
    for _ in range(1000):
        orchestrator.send("counter", Work())
    tree = workers(1, on_give_up="hold")
    tree.wait_for("on hold, and its mail with it", 60)
    tree.wait_for("mailboxes on hold: counter", 60)
    (row,) = orchestrator.ledger()
    assert (row.dead, row.handled, row.on_hold) == (0, 0, 1000)
    assert tree.tree()["agents"]["state"] == "on hold"
    assert tree.tree()["agents/counter.1"]["state"] == "on hold: orchestrator tree reset agents"
    deaths = orchestrator.registry.deaths(10)
    assert [(death.reason, death.error.partition(":")[0]) for death in deaths] == [("crashed", "exit code 1")] * 2
    # It is still accepted.
    orchestrator.send("counter", Work())

    (tmp_path / "bad").unlink()
    assert tree.ask("reset", "agents").returncode == 0
    tree.wait_for("mailboxes released: counter", 60)
    (row,) = eventually(lambda: [row for row in orchestrator.ledger() if row.handled == 1001], 60)

    assert (row.dead, row.pending, row.lost, row.on_hold) == (0, 0, 0, 0)
    assert tree.stop() == 0


@pytest.mark.slow
def test_two_poison_messages_become_dead_letters_and_do_not_end_the_tree(workers, orchestrator, tmp_path):
    tree = workers(2, nested=False)
    tree.wait_for("all are ready", 60)
    (tmp_path / "bad").touch()
    sent = [orchestrator.send("counter", Work()) for _ in range(2)]
    outcomes = [delivery.wait(timeout_s=120) for delivery in sent]
    (tmp_path / "bad").unlink()

    assert [(type(outcome), outcome.reason) for outcome in outcomes] == [(Dead, "poison")] * 2
    assert tree.process.poll() is None
    assert isinstance(orchestrator.send("counter", Work()).wait(timeout_s=60), Handled)
    # Each worker was restarted for a death of its own; more than 3 of them ended the tree once.
    assert sum(row["restarts"] for row in tree.tree().values()) > 3
    assert tree.stop(60) == 0


def test_bad_settings_are_not_tried_again(workers, orchestrator, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_HEARTBEAT_S", "-1")
    tree = workers(1)
    tree.wait_for("agents/counter.1: failed: config", 60)

    assert tree.process.wait(20) == 1
