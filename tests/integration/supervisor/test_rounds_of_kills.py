"""SIGKILL of whatever there is, again and again: no orphan by a scan of ``/proc``, no lock left, and work goes on."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.processes import is_gone
from tests.support.supervised import process

#: A child with a child of its own, and one in a session of its own.
FAMILY = ["sh", "-c", "setsid sleep 1000 & sleep 1000 & echo up; wait"]

#: Of each kill: what is killed.
VICTIMS = ("child", "grandchild", "lifeline", "supervisor", "supervisor and lifeline")


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(5, id="each once"), pytest.param(100, id="100", marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
def test_rounds(supervise, rounds):
    random.seed(16)
    children = [process(name, FAMILY, stable_s=0) for name in "abc"]
    tree = supervise(children, intensity=1000)
    tree.wait_for("all are ready")
    for number in range(rounds):
        eventually(partial(is_whole, tree, 3 * len(children)))
        victim, before = VICTIMS[number % len(VICTIMS)], tree.members()
        if "supervisor" in victim:
            kill_supervisor(tree, victim, before)
            tree = supervise(children, intensity=1000)
            tree.wait_for("all are ready")
            assert all(is_gone(pid) for pid in before)
        else:
            kill_one(tree, victim, before)
    eventually(partial(is_whole, tree, 3 * len(children)))
    assert tree.stop() == 0
    assert tree.members() == []


def is_whole(tree, count) -> bool:
    """Whether all processes are there, each of which has run its program."""
    return len(tree.members()) == count and not any(row["state"] != "ready" for row in tree.tree().values())


def kill_one(tree, victim, members) -> None:
    mains = [row["pid"] for path, row in tree.tree().items() if path]
    if victim == "lifeline":
        first = lifeline_of(tree, members)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: is_gone(first) and lifeline_of(tree, tree.members()) != first)
    elif victim == "child":
        pid = random.choice(mains)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in [row.get("pid") for row in tree.tree().values()])
    else:
        os.kill(random.choice([pid for pid in members if pid not in mains]), signal.SIGKILL)
        # Its parent goes on without it. A restart of all brings it again.
        tree.ask("restart")
        eventually(lambda: not set(mains) & {row.get("pid") for row in tree.tree().values()})


def kill_supervisor(tree, victim, members) -> None:
    if victim == "supervisor and lifeline":
        os.kill(lifeline_of(tree, members), signal.SIGKILL)
    tree.process.kill()
    tree.process.wait()
    if victim == "supervisor":
        # No other supervisor has to come for that.
        eventually(lambda: all(is_gone(pid) for pid in members))


def lifeline_of(tree, members) -> int:
    children = Path(f"/proc/{tree.process.pid}/task/{tree.process.pid}/children").read_text()
    return next((pid for pid in map(int, children.split()) if pid not in members), 0)


@pytest.mark.slow
def test_200_children_come_and_go(supervise):
    tree = supervise([process("a", ["sleep", "1000"], replicas=200)])
    tree.wait_for("all are ready")
    eventually(lambda: len(tree.members()) == 200)

    assert tree.stop() == 0
    assert tree.members() == []
