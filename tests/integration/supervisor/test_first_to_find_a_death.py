"""A worker's death has its true reason on record, whichever process finds it first."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator import Orchestrator
from orchestrator.registry.registry import Death
from orchestrator.transport.liveness import heart
from tests.apps.supervised_app import HEART_SCRIPT, Work
from tests.integration.supervisor.test_recorded_deaths import recorders
from tests.support.eventually import eventually
from tests.support.named_pipes import write_to
from tests.support.processes import is_gone
from tests.support.supervised import Supervised

#: How a worker ends, with what is to be on record.
ENDS = [
    ("SIGKILL", ("killed", "SIGKILL")),
    ("1", ("crashed", "exit code 1")),
    # Nobody asked for its end, and it has not deregistered.
    ("0", ("crashed", "exit code 0")),
]

#: A worker that sweeps.
OTHER = {
    "id": "sweeping",
    "kind": "worker",
    "queues": ["other"],
    "pool": "solo",
    "arguments": ["--without-gossip", "--without-mingle"],
}


def pid_of(tree: Supervised, path: str = "agents/counter.1") -> int:
    return int(tree.tree()[path]["pid"])


def heart_of(pid: int) -> int:
    """The watchdog process of a worker."""

    def found() -> list[int]:
        children = psutil.Process(pid).children()
        return [child.pid for child in children if any(part.endswith("heart.py") for part in child.cmdline())]

    (pid_of_heart,) = eventually(found)
    return pid_of_heart


def is_known(orchestrator: Orchestrator) -> bool:
    """Whether Redis knows the hearts of all workers."""
    return all(incarnation.has_heart for incarnation in orchestrator.registry.incarnations())


@pytest.fixture
def ends(orchestrator: Orchestrator, tmp_path: Path) -> Callable[[str, int], None]:
    """Has a worker end by SIGKILL or with an exit code while it runs a message, which the next one handles."""

    def end(how: str, pid: int) -> None:
        bad = tmp_path / "bad"
        if how != "SIGKILL":
            bad.write_text(how)
            orchestrator.send("counter", Work())
            eventually(lambda: is_gone(pid))
            bad.unlink()
        else:
            os.mkfifo(tmp_path / "gate")
            orchestrator.send("counter", Work(gate=str(tmp_path / "gate")))
            eventually(lambda: list(tmp_path.glob(f"gate.{pid}")))
            os.kill(pid, signal.SIGKILL)

    return end


def why(tree: Supervised) -> list[tuple[str, int | None, str]]:
    story = json.loads(tree.ask("--json", "why", "agents/counter.1").stdout)["why"]["agents/counter.1"]
    return [(end["how"], end.get("requeued"), end.get("reason", "")) for end in story["ends"]]


def deaths_of(orchestrator: Orchestrator, pid: int) -> list[Death]:
    return [death for death in orchestrator.registry.deaths(10) if death.pid == pid]


def complete(orchestrator: Orchestrator, pid: int) -> list[Death]:
    """The one record of a worker's death, once it says how its process has ended."""
    (death,) = deaths_of(orchestrator, pid)
    return [death] if death.error else []


def end_of(death: Death) -> tuple[str, str]:
    """Its reason, and how its process has ended, without its last line."""
    return death.reason, death.error.partition(":")[0]


@pytest.mark.parametrize(("how", "recorded"), ENDS)
def test_the_heart_is_first(workers, orchestrator, ends, tmp_path, how, recorded):
    tree = workers(1, hearts=True)
    tree.wait_for("all are ready", 60)
    pid = pid_of(tree)
    heart_of(pid)
    eventually(lambda: is_known(orchestrator))
    os.kill(tree.process.pid, signal.SIGSTOP)
    try:
        ends(how, pid)
        (first,) = eventually(lambda: deaths_of(orchestrator, pid), 30)
    finally:
        os.kill(tree.process.pid, signal.SIGCONT)
    assert (first.by, first.reason, first.error) == ("heart", "killed", "")
    (death,) = eventually(lambda: complete(orchestrator, pid), 30)

    assert end_of(death) == recorded
    assert (death.incarnation, death.by, death.at_ms) == (first.incarnation, "heart", first.at_ms)
    tree.wait_for(f"{death.incarnation} fenced ({death.reason}); messages requeued: 1")
    assert why(tree) == [(recorded[1], 1, recorded[0])]
    if how == "SIGKILL":
        eventually(lambda: len(list(tmp_path.glob("gate.*"))) == 2, 60)
        write_to(tmp_path / "gate")
    (row,) = eventually(lambda: [row for row in orchestrator.ledger() if row.handled == 1], 60)
    assert (row.restarted, row.redelivered, row.duplicated, row.lost) == (1, 1, 0, 0)
    assert tree.stop() == 0


@pytest.mark.parametrize(("how", "recorded"), ENDS)
def test_the_supervisor_is_first(workers, orchestrator, ends, how, recorded):
    tree = workers(1, hearts=True)
    tree.wait_for("all are ready", 60)
    pid = pid_of(tree)
    eventually(lambda: is_known(orchestrator))
    # It is killed with what its worker has left.
    os.kill(heart_of(pid), signal.SIGSTOP)
    ends(how, pid)
    (death,) = eventually(lambda: deaths_of(orchestrator, pid), 30)

    assert end_of(death) == recorded
    assert death.by.startswith("supervisor@")
    tree.wait_for(f"{death.incarnation} fenced ({death.reason}); messages requeued: 1")
    assert why(tree) == [(recorded[1], 1, recorded[0])]


def test_a_heart_that_runs_leaves_the_report_to_a_supervisor_that_lives(workers, orchestrator, ends, tmp_path):
    script = tmp_path / "heart.py"
    source = Path(heart.__file__).read_text()
    # It would wait until the test has ended, so that nothing here is a race against its time.
    script.write_text(source.replace(f"_SUPERVISOR_S = {heart._SUPERVISOR_S}\n", "_SUPERVISOR_S = 600.0\n"))
    assert script.read_text() != source
    tree = workers(1, hearts=True, worker={"environment": {HEART_SCRIPT: str(script)}})
    tree.wait_for("all are ready", 60)
    pid = pid_of(tree)
    process = psutil.Process(heart_of(pid))
    eventually(lambda: is_known(orchestrator))
    os.kill(tree.process.pid, signal.SIGSTOP)
    try:
        ends("SIGKILL", pid)
        eventually(lambda: process.ppid() == tree.process.pid)
        # It sleeps and looks, again and again, for longer than a report takes.
        before = process.num_ctx_switches().voluntary
        eventually(lambda: is_gone(process.pid) or process.num_ctx_switches().voluntary >= before + 10)
        assert deaths_of(orchestrator, pid) == []
    finally:
        os.kill(tree.process.pid, signal.SIGCONT)
    (death,) = eventually(lambda: deaths_of(orchestrator, pid), 30)

    assert end_of(death) == ("killed", "SIGKILL")
    assert death.by.startswith("supervisor@")
    eventually(lambda: is_gone(process.pid))


@pytest.mark.parametrize(("how", "recorded"), ENDS)
def test_another_workers_sweep_is_first(workers, orchestrator, ends, tmp_path, how, recorded):
    tree = workers(1, hearts=True, settings={}, first=(OTHER,))
    tree.wait_for("all are ready", 60)
    pid = pid_of(tree)
    eventually(lambda: is_known(orchestrator))
    (recorder,) = recorders(tree)
    os.kill(recorder, signal.SIGSTOP)
    try:
        ends(how, pid)
        (first,) = eventually(lambda: deaths_of(orchestrator, pid), 60)
    finally:
        os.kill(recorder, signal.SIGCONT)
    assert (first.reason, first.error) == ("killed", "")
    (death,) = eventually(lambda: complete(orchestrator, pid), 30)

    assert end_of(death) == recorded
    assert (death.incarnation, death.by, death.at_ms) == (first.incarnation, first.by, first.at_ms)
    eventually(lambda: why(tree) and why(tree)[0][2])
    assert [(end, reason) for end, _, reason in why(tree)] == [(recorded[1], recorded[0])]
