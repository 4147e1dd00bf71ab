"""Where a supervisor is started: by nohup, without files, on a full disk, as process 1 of a PID namespace."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.supervised import ORCHESTRATOR, process, toml

UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")

#: Leaves an orphan that ends at once.
LEAVES_AN_ORPHAN = ["sh", "-c", "(sleep 0.1 &) ; echo up; exec sleep 1000"]


def is_ready(tree) -> bool:
    return bool(tree.tree()["a"]["state"] == "ready")


def test_nohup_survives_the_terminal(supervise):
    tree = supervise([process("a")], prefix=("nohup",))
    tree.wait_for("all are ready")
    tree.wait_for("| up")
    tree.process.send_signal(signal.SIGHUP)
    tree.ask("restart", "a")
    # It has seen to a signal since.
    tree.wait_for("| up")

    assert tree.stop() == 0
    assert "stopping" in tree.all_lines()[0]


def test_without_nohup_it_stops_when_the_terminal_closes(supervise):
    tree = supervise([process("a")])
    tree.wait_for("all are ready")
    tree.process.send_signal(signal.SIGHUP)

    assert tree.process.wait(20) == 0


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "2>&-"])
def test_without_standard_files(supervise, closed):
    tree = supervise([process("a")], prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    eventually(lambda: tree.ask().returncode == 0 and is_ready(tree), 20)

    eventually(lambda: tree.ask("logs", "a").stdout == "up\n", 20)
    assert tree.stop() == 0
    assert tree.members() == []


def test_without_standard_input(tmp_path):
    (tmp_path / "orchestrator.toml").write_text(toml([process("a", ["sh", "-c", "read x; echo $$?"])]))
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", ORCHESTRATOR, "supervise", "--until-stdin-closes"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    # It is closed: there is nobody to run for.
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_takes_no_lines_and_stops_nobody(supervise):
    tree = supervise([process("a")], prefix=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    eventually(lambda: tree.ask().returncode == 0 and is_ready(tree), 20)
    os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)
    eventually(lambda: is_ready(tree) and tree.tree()["a"]["restarts"] == 1)

    assert tree.stop() == 0


@pytest.fixture
def namespaces():
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no PID namespace")


@pytest.mark.usefixtures("namespaces")
def test_the_processes_of_another_pid_namespace_are_not_taken_for_its_own(supervise):
    tree = supervise([process("a")], prefix=UNSHARE)

    assert tree.process.wait(20) == 2
    assert "error: /proc is that of another PID namespace" in "".join(tree.all_lines())


@pytest.mark.usefixtures("namespaces")
def test_process_1_reaps_restarts_and_stops(supervise):
    tree = supervise([process("a", LEAVES_AN_ORPHAN)], prefix=(*UNSHARE, "--mount-proc"))
    tree.wait_for("all are ready")
    tree.wait_for("| up")
    unshare = tree.process.pid
    (supervisor,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    eventually(lambda: len(children_of(supervisor)) == 2)
    child = next(pid for pid in children_of(supervisor) if pid in tree.members())
    os.kill(child, signal.SIGKILL)
    tree.wait_for("a: process")
    tree.wait_for("| up")
    eventually(lambda: len(children_of(supervisor)) == 2)
    os.kill(int(supervisor), signal.SIGTERM)

    assert tree.process.wait(20) == 0
    assert "stopping" in "".join(tree.all_lines())


def children_of(pid: str) -> list[int]:
    """Its children, zombies too: the lifeline is one."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
