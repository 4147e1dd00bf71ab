"""The service supervisor of the Elixir system that this project is modelled on, by meaning."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from tests.support.eventually import eventually
from tests.support.supervised import process

#: As there: the monitor manager first, agents last.
SERVICES = ("monitor-manager", "task-pool", "system-command", "coordination", "scheduler", "signals", "agents")

#: Says with which configuration it runs, and answers one question a run.
SERVICE = ["sh", "-c", 'echo "level $$LEVEL"; exec sleep 1000']


#: Does what it is asked to.
ANSWERS = ["sh", "-c", 'while :; do read task < "$$NAME.ask" && echo "$$NAME did $$task"; done']


@pytest.fixture
def services(supervise):
    def start(**root):
        children = [process(name, SERVICE, environment={"LEVEL": name}, stable_s=0) for name in SERVICES]
        tree = supervise(children, intensity=50, **root)
        tree.wait_for("all are ready")
        # A shell that is ended before it has come to that says nothing, and one that is late says it after the restart.
        for _ in SERVICES:
            tree.wait_for("| level")
        return tree

    return start


def pids(tree) -> dict[str, int]:
    return {path: row["pid"] for path, row in tree.tree().items() if path}


def test_which_services_and_whether_one_runs(services):
    tree = services()

    assert list(pids(tree)) == list(SERVICES)
    assert tree.tree()["scheduler"]["state"] == "ready"
    unknown = tree.ask("why", "schedule")
    assert (unknown.returncode, unknown.stderr) == (2, "error: unknown child 'schedule'; did you mean 'scheduler'?\n")


def test_a_restart_of_one_leaves_the_others_and_keeps_its_configuration(services):
    tree = services()
    before = pids(tree)
    os.kill(before["scheduler"], signal.SIGKILL)
    eventually(lambda: pids(tree)["scheduler"] not in (None, before["scheduler"]))

    after = pids(tree)
    assert {name for name in SERVICES if after[name] != before[name]} == {"scheduler"}
    eventually(lambda: tree.ask("logs", "scheduler", "--lines", "1").stdout == "level scheduler\n")


@pytest.mark.parametrize("name", ["task-pool", "system-command", "coordination", "scheduler"])
def test_one_works_again_after_its_crash(supervise, tmp_path, name):
    children = [process(one, ANSWERS, environment={"NAME": one}, stable_s=0) for one in SERVICES]
    for one in SERVICES:
        os.mkfifo(tmp_path / f"{one}.ask")
    tree = supervise(children, intensity=50)
    tree.wait_for("all are ready")
    for task in ("first", "second"):
        (tmp_path / f"{name}.ask").write_text(f"{task}\n")
        assert tree.wait_for(f"did {task}").endswith(f"{name} did {task}")
        before = pids(tree)
        os.kill(before[name], signal.SIGKILL)
        eventually(partial(has_another_process, tree, name, before[name]))


def has_another_process(tree, name, former) -> bool:
    return pids(tree)[name] not in (None, former)


def test_many_simultaneous_crashes(services):
    tree = services()
    before = pids(tree)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: all(row["state"] == "ready" and row["restarts"] == 1 for path, row in tree.tree().items() if path)
    )

    assert not set(pids(tree).values()) & set(before.values())
    assert len(tree.members()) == len(SERVICES)


def test_the_cascade_leaves_those_before_and_restarts_those_after_in_order(services):
    tree = services(strategy="rest_for_one")
    before = pids(tree)
    os.kill(before["coordination"], signal.SIGKILL)
    eventually(lambda: not {pids(tree)[name] for name in SERVICES[3:]} & {None, *before.values()})

    after = pids(tree)
    assert [name for name in SERVICES if after[name] == before[name]] == list(SERVICES[:3])
    tree.wait_for("coordination: process")
    started = [tree.wait_for("| level").split("|")[0].strip() for _ in SERVICES[3:]]
    assert sorted(started) == sorted(SERVICES[3:])
    assert [after[name] for name in SERVICES[3:]] == sorted(after[name] for name in SERVICES[3:])
