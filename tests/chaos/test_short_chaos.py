"""A chaos run, short enough for every day; ``make chaos`` is the long one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LINE = re.compile(
    r"chaos: accepted=(\d+) handled=(\d+) dead=(\d+) lost=0 early=0 duplicated=(\d+) kills=(\d+) "
    r"per_kill=\d+\.\d\d recovered=\d+ "
    r"recovered_p99_s=(\d+\.\d\d|-) workflows=(\d+) fires=(\d+) grants=(\d+) terms=(\d+) asks=(\d+) ballots=(\d+) "
    r"placed=(\d+) barriers=(\d+) lanes=(\d+)"
)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(330)
@pytest.mark.parametrize("more", [[], ["--tree"]], ids=["alone", "tree"])
def test_nothing_is_lost_whatever_is_killed(more: list[str]) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "chaos",
            *["--duration-s", "26", "--seed", "7", "--rate", "50", "--every-s", "1.7", "--schedules", "60"],
            *more,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = LINE.fullmatch(run.stdout.splitlines()[-1])
    assert found, run.stdout
    accepted, handled, dead, duplicated, kills = (int(number) for number in found.groups()[:5])
    assert int(found.group(7)) > 30
    assert int(found.group(8)) > 300
    assert accepted == handled + dead
    assert accepted > 300
    grants, terms, asks, ballots, placed, barriers, lanes = (int(number) for number in found.groups()[-7:])
    assert grants > 40
    assert terms > 5
    assert asks > 30
    assert ballots > 8
    assert placed > 2
    assert barriers > 5
    assert lanes > 30
    # Each of the 14 kinds about once, and poison beside.
    assert kills >= 12
    assert duplicated <= 2 * kills
