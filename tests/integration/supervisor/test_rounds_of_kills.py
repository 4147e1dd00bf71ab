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
from tests.support.supervised import PYTHON, process

#: A child with a child of its own, and one in a session of its own.
FAMILY = ["sh", "-c", "setsid sleep 1000 & sleep 1000 & echo up; wait"]

#: Says that it is ready.
NOTIFIES = """
import os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""

#: 32 processes with sessions of their own, each of which starts one after the other; for a while, should it survive.
FORKS = """
import os, time
end = time.monotonic() + 20
for _ in range(5):
    if os.fork() == 0: os.setsid()
while time.monotonic() < end:
    if os.fork() == 0:
        os.setsid(); time.sleep(0.5); os._exit(0)
    time.sleep(0.1)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
"""

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
        first = eventually(lambda: lifeline_of(tree, members))
        os.kill(first, signal.SIGKILL)
        eventually(lambda: is_gone(first) and lifeline_of(tree, tree.members()) not in (0, first))
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
        os.kill(eventually(lambda: lifeline_of(tree, members)), signal.SIGKILL)
    tree.process.kill()
    tree.process.wait()
    if victim == "supervisor":
        # No other supervisor has to come for that.
        eventually(lambda: all(is_gone(pid) for pid in members))


def lifeline_of(tree, members) -> int:
    children = Path(f"/proc/{tree.process.pid}/task/{tree.process.pid}/children").read_text()
    return next((pid for pid in map(int, children.split()) if pid not in members), 0)


def test_restarts_leave_no_file_open(supervise):
    children = [
        process("a", [*PYTHON, NOTIFIES], ready="notify", stable_s=0),
        process("b", ready_command=["true"], stable_s=0),
    ]
    tree = supervise(children, intensity=1000)
    tree.wait_for("all are ready")
    eventually(lambda: is_whole(tree, 2))
    before = open_files(tree)
    for _ in range(10):
        pids = {path: row["pid"] for path, row in tree.tree().items() if path}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        eventually(partial(are_others, tree, pids))

    # Fewer, if the connection of who asked last was still open before.
    eventually(lambda: open_files(tree) <= before)


def open_files(tree) -> int:
    return len(list(Path(f"/proc/{tree.process.pid}/fd").iterdir()))


def are_others(tree, pids) -> bool:
    rows = {path: row for path, row in tree.tree().items() if path}
    return all(row["state"] == "ready" and row["pid"] != pids[path] for path, row in rows.items())


def test_processes_that_fork_on_and_on_end_with_the_tree(supervise):
    tree = supervise([process("a", [*PYTHON, FORKS])])
    eventually(lambda: len(tree.members()) > 40)

    assert tree.stop() == 0
    assert tree.members() == []


def test_processes_that_fork_on_and_on_end_before_their_first_is_restarted(supervise):
    tree = supervise([process("a", [*PYTHON, FORKS])])
    eventually(lambda: len(tree.members()) > 40)
    before = tree.members()
    os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)
    tree.wait_for("a: process")
    eventually(lambda: tree.tree()["a"]["restarts"] == 1 and tree.tree()["a"]["state"] == "ready")

    assert all(is_gone(pid) for pid in before)


@pytest.mark.slow
def test_200_children_come_and_go(supervise):
    tree = supervise([process("a", ["sleep", "1000"], replicas=200)])
    tree.wait_for("all are ready")
    eventually(lambda: len(tree.members()) == 200)

    assert tree.stop() == 0
    assert tree.members() == []
