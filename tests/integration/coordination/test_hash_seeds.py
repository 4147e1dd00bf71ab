"""Each process has its own order of a set; what it sends of it is the same."""

from __future__ import annotations

import os
import sys

from chaos.forked_process import ROOT, run


def test_equal_sets_are_the_same_under_one_key_in_two_processes(redis_url: str) -> None:
    """Regression: of a set of models, the second process' message was refused as another one under that key."""
    printed = [
        run(
            [sys.executable, "-m", "tests.support.set_sender", redis_url],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
        ).stdout.split()
        for seed in ("1", "2", "3")
    ]
    firsts, reports, ballots = zip(*printed, strict=True)
    assert len(set(firsts)) > 1, "the order of the sets differs"
    assert len(set(reports)) == len(set(ballots)) == 1
