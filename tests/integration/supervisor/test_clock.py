"""A wall clock that jumps, forwards and backwards, moves no restart, no intensity and no time-out."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.supervised import Site, process

HOUR_S = 3600

#: Imported by Python before anything else: the wall clock of the supervisor is as far off as a file says.
CLOCK = """
import os, time
real, real_ns, at = time.time, time.time_ns, os.environ["CLOCK_AT"]

def off_s():
    with open(at) as file:
        return int(file.read() or 0)

time.time = lambda: real() + off_s()
time.time_ns = lambda: real_ns() + 10**9 * off_s()
"""


class Clock:
    """The wall clock of a supervisor."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "clock"
        self.set(0)
        self.site = Site(directory / "site", CLOCK)
        self.environment = {"PYTHONPATH": str(self.site.directory), "CLOCK_AT": str(self.file)}

    def set(self, off_s: int) -> None:
        # In one step: it is read at any time.
        (new := self.file.with_suffix(".new")).write_text(str(off_s))
        new.replace(self.file)


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


def kill(tree, restarts: int) -> None:
    """Kill the child, and wait until it has been restarted so often."""
    os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)
    eventually(lambda: (row := tree.tree()["a"])["state"] == "ready" and row["restarts"] == restarts)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_restarts_pause_for_as_long_and_are_counted_as_within_the_period(supervise, clock, jump_s):
    child = process("a", backoff={"first_s": 0.1, "jitter": 0})
    tree = supervise([child], environment=clock.environment, intensity=3)
    tree.wait_for("all are ready")
    for restarts in (1, 2, 3):
        kill(tree, restarts)
        clock.set(jump_s * restarts)
    # When it ended is recorded by the wall clock: the supervisor has seen the jumps.
    ended_s = ends_at_s(tree)[-1]
    assert abs(ended_s - time.time() - 2 * jump_s) < HOUR_S / 2
    os.kill(tree.tree()["a"]["pid"], signal.SIGKILL)

    tree.wait_for("too many ends: 4 within 60 s; allowed: 3")
    assert tree.process.wait(20) == 1


def ends_at_s(tree) -> list[float]:
    return [end["at_s"] for end in json.loads(tree.ask("--json", "why", "a").stdout)["why"]["a"]["ends"]]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_start_has_its_time_and_a_stop_too(supervise, clock, tmp_path, jump_s):
    gate = process("a", ready_command=["test", "-e", str(tmp_path / "go")], ready_s=HOUR_S / 2)
    deaf = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]
    tree = supervise([gate, process("b", deaf, shutdown_s=0.5)], environment=clock.environment, intensity=0)
    tree.wait_for("| up")
    assert clock.site.is_loaded_by(tree)
    clock.set(jump_s)
    (tmp_path / "go").touch()
    tree.wait_for("all are ready")
    tree.wait_for("| deaf")
    tree.process.terminate()
    clock.set(-jump_s)

    assert tree.process.wait(20) == 0
