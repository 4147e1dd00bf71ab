"""`docs/canvas.md`: a chord that Celery loses to a kill, and the line that makes it safe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest
from redis import Redis

from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

APP = "tests.apps.chord_app"
PAGE = (ROOT / "docs" / "canvas.md").read_text(encoding="utf-8")
ONE_LINE = re.findall(r"```python\n(.*?)```", PAGE, re.S)[1]


def _run(redis_url: str, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from {APP} import order, orchestrator\n{textwrap.dedent(code)}"],
        cwd=ROOT,
        env={**os.environ, "ORCHESTRATOR_BROKER_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _worker(redis_url: str, kill: str) -> WorkerProcess:
    return WorkerProcess(APP, redis_url, environment={"CHORD_APP_KILL": kill})


@pytest.mark.slow
def test_celery_loses_the_body_between_counting_and_sending(redis_url: str) -> None:
    with _worker(redis_url, "celery") as worker:
        _run(redis_url, "order().apply_async()")
        eventually(lambda: not worker.is_running, timeout_s=20, describe=worker.log)
        with WorkerProcess(APP, redis_url, name="next") as other:
            # It has run all three tasks, one of them again, and has nothing left to do.
            eventually(lambda: _ledger_is_idle(redis_url), timeout_s=20, describe=other.log)
            assert "invoice" not in re.sub(r"(?s).*?\[tasks\].*?\n\n", "", other.log())
        with Redis.from_url(redis_url) as client:
            # The dead worker's claim of the chord; nobody looks at it again.
            assert len(list(client.scan_iter("celery-taskset-meta-*.c"))) == 1


def _ledger_is_idle(redis_url: str) -> bool:
    code = "print(sum(row.pending for row in orchestrator.ledger()), sum(row.handled for row in orchestrator.ledger()))"
    return _run(redis_url, code).split() == ["0", "3"]


def test_a_run_loses_nothing_to_a_kill_at_the_same_place(redis_url: str) -> None:
    with _worker(redis_url, "run") as worker:
        _run(redis_url, "run = orchestrator.send(order())\nopen('/dev/null', 'w').write(run.id)")
        eventually(lambda: not worker.is_running, timeout_s=20, describe=worker.log)
        with WorkerProcess(APP, redis_url, name="next"):
            code = """
                run = orchestrator.workflows.get(next(orchestrator.workflows.list()).uid)
                print(run.wait(20).state, run.result())
            """
            assert _run(redis_url, code) == "completed 600\n"


def test_the_one_line_prints_what_the_page_says(redis_url: str) -> None:
    with _worker(redis_url, ""):
        assert _run(redis_url, ONE_LINE) == "600\n"
