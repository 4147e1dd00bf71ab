"""A chaos run that is ended early ends what it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.eventually import eventually

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("more", [[], ["--tree"]], ids=["alone", "tree"])
def test_a_terminated_run_leaves_no_process(more: list[str], tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    run = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--duration-s", "120", "--logs", str(tmp_path), *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CHAOS_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    # Its headline, and the first kill: all processes run by then.
    for line in run.stdout:
        if " s  " in line:
            break
    assert len(_with_mark(mark)) > 5
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    eventually(lambda: not _with_mark(mark), timeout_s=20)


def _with_mark(mark: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:  # It has ended.
            continue
        if mark.encode() in environment:
            found.append(int(process.name))
    return found
