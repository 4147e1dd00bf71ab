"""How the kernel ends a worker that takes too much memory, and the supervisor one that does not end by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import Handled
from orchestrator.supervisor.processes.oom import _open_log
from tests.apps.supervised_app import TakeMemory, Work
from tests.support.eventually import eventually
from tests.support.named_pipes import write_to
from tests.support.processes import is_gone
from tests.support.supervised import Site

#: A supervisor, two workers and a death recorder need about 300.
LIMIT_MB = 500

#: The reason of an OOM kill and its text: proved by the kernel's log, where this user can read that.
OOM_KILL = (
    ("oom", "SIGKILL by the OOM killer")
    if _open_log() >= 0
    else ("killed", "SIGKILL, perhaps by the OOM killer: the control group counted a kill")
)

#: How a worker has ended that is killed just after a neighbour was, for its memory.
KILL_AFTER_ANOTHERS = ("killed", "SIGKILL") if _open_log() >= 0 else OOM_KILL


def within(control_group: Path) -> tuple[str, ...]:
    """A command that runs another one in a control group."""
    return "sh", "-c", f'echo $$ > {control_group}/cgroup.procs && exec "$@"', "sh"


@pytest.fixture
def control_group():
    """A control group of the kernel whose processes have no more memory than that together."""
    root = Path("/sys/fs/cgroup")
    limits = {"memory.max": LIMIT_MB * 2**20, "memory.swap.max": 0}
    if (root / "memory").is_dir():
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line)
        root = root / "memory" / line.split(":", 2)[2].lstrip("/")
        limits = dict.fromkeys(("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), LIMIT_MB * 2**20)
    group = root / f"orchestrator-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"this user may make no control group: {error}")
    try:
        first, second = limits
        if not (group / first).exists():
            pytest.skip("the memory of control groups is not limited here")
        (group / first).write_text(str(limits[first]))
        if (group / second).exists():
            (group / second).write_text(str(limits[second]))
        yield group
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_its_memory_is_recorded_as_oom(
    control_group, workers, orchestrator, tmp_path
):
    tree = workers(2, prefix=within(control_group))
    tree.wait_for("all are ready", 60)
    marker = tmp_path / "marker"
    outcome = orchestrator.send("counter", TakeMemory(marker=str(marker), megabytes=2 * LIMIT_MB)).wait(timeout_s=30)

    assert isinstance(outcome, Handled)
    assert outcome.result != int(marker.read_text())
    tree.wait_for(f"process {marker.read_text()} has ended: {OOM_KILL[1]}")
    death = orchestrator.registry.deaths(10)[0]
    assert (death.reason, death.error) == OOM_KILL
    tree.wait_for(f"{death.incarnation} fenced ({OOM_KILL[0]})")
    assert death.by.startswith("supervisor@")
    # A SIGKILL later is another matter.
    eventually(lambda: [row["state"] for path, row in tree.tree().items() if "/" in path] == ["ready"] * 2, 60)
    os.kill(tree.tree()["agents/counter.1"]["pid"], signal.SIGKILL)
    eventually(lambda: len(orchestrator.registry.deaths(10)) == 2)
    assert (orchestrator.registry.deaths(10)[0].reason, orchestrator.registry.deaths(10)[0].error) == (
        "killed", "SIGKILL",
    )  # fmt: skip
    assert [row.lost for row in orchestrator.ledger()] == [0]


def test_a_neighbour_that_the_kernel_kills_for_its_memory_is_not_taken_for_a_worker(
    control_group, workers, orchestrator
):
    tree = workers(2, prefix=within(control_group))
    tree.wait_for("all are ready", 60)
    pid = tree.tree()["agents/counter.1"]["pid"]
    takes_memory = f"taken = b'1' * {2 * LIMIT_MB * 2**20}"
    assert subprocess.run([*within(control_group), sys.executable, "-c", takes_memory], check=False).returncode == -9
    os.kill(pid, signal.SIGKILL)

    (death,) = eventually(lambda: orchestrator.registry.deaths(10))
    assert (death.reason, death.error) == KILL_AFTER_ANOTHERS
    assert death.by.startswith("supervisor@")


#: Imported by Python before anything else: a supervisor that leaves workers 50 s after SIGQUIT, where it is 5 s.
PATIENT = """
from orchestrator.supervisor.reading import kinds
assert kinds._QUIT_BEFORE_S == 5.0
kinds._QUIT_BEFORE_S = 50.0
"""


def test_a_worker_that_runs_a_message_after_sigterm_gets_sigquit_before_it_is_killed(workers, orchestrator, tmp_path):
    site = Site(tmp_path / "site", PATIENT)
    # SIGTERM alone would let it wait for its message.
    tree = workers(
        1,
        worker={"pool": "prefork", "concurrency": 1, "shutdown_s": 51},
        prefix=("env", f"PYTHONPATH={site.directory}"),
    )
    tree.wait_for("all are ready", 60)
    assert site.is_loaded_by(tree)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    delivery = orchestrator.send("counter", Work(gate=str(gate)))
    (started,) = eventually(lambda: list(tmp_path.glob("gate.*")))
    tree.ask("stop", "agents/counter.1")
    eventually(lambda: tree.tree()["agents/counter.1"]["state"] == "stopped", 30)
    why = json.loads(tree.ask("--json", "why", "agents/counter.1").stdout)["why"]["agents/counter.1"]

    assert [(end["how"], end["asked_for"]) for end in why["ends"]] == [("exit code 0", True)]
    assert is_gone(int(started.suffix[1:]))
    assert [death.reason for death in orchestrator.registry.deaths(10)] == ["deployed"]
    assert [(row.ready, row.handled, row.lost) for row in orchestrator.ledger()] == [(1, 0, 0)]
    # Its message is the next one's.
    tree.ask("start", "agents/counter.1")
    eventually(lambda: len(list(tmp_path.glob("gate.*"))) == 2, 60)
    write_to(gate)
    assert isinstance(delivery.wait(timeout_s=20), Handled)
