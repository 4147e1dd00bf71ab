"""`orchestrator supervise --check` starts nothing, and says what it would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.supervised import ORCHESTRATOR, process, toml

ROOT = Path(__file__).parents[3]


def check(
    directory: Path, children, app: str = "tests.apps.supervised_app", **root
) -> subprocess.CompletedProcess[str]:
    (directory / "orchestrator.toml").write_text(toml(children, app=app, **root))
    return subprocess.run(
        [ORCHESTRATOR, "supervise", "--check"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("child", "app", "warning"),
    [
        (
            {"id": "a", "kind": "worker", "queues": ["other"]},
            "tests.apps.supervised_app",
            "no worker serves the mailbox of agent counter",
        ),
        (
            {"id": "a", "kind": "worker", "queues": ["counter", "counter2"]},
            "tests.apps.supervised_app",
            "queue counter2: no agent, task or setting of app tests.apps.supervised_app names it",
        ),
        (process("a", ["/no/such/program"]), "x", "a: '/no/such/program' is not an executable file on PATH"),
        (process("a", directory="nowhere"), "x", "nowhere is not there"),
    ],
    ids=["mailbox", "queue", "program", "directory"],
)
def test_warnings(tmp_path, child, app, warning):
    done = check(tmp_path, [child], app=app)

    assert done.returncode == 0
    assert warning in done.stderr
    assert done.stdout.splitlines()[0] == "orchestrator.toml: one_for_one, 3 restarts in 60 s, then escalate"
    assert not (tmp_path / ".state").exists()


def test_an_app_that_cannot_be_imported_is_an_error(tmp_path):
    done = check(tmp_path, [{"id": "a", "kind": "worker"}], app="no_such_app")

    assert done.returncode == 2
    assert "error: app no_such_app: cannot be imported: " in done.stderr


def test_queues_that_the_app_knows_are_not_warned_of(tmp_path):
    queues = ["counter", "celery", "monitor-manager"]
    done = check(tmp_path, [{"id": "a", "kind": "worker", "queues": queues}, {"id": "beat", "kind": "beat"}])

    assert (done.returncode, done.stderr) == (0, "")


def test_all_faults_at_once_and_exit_code_2(tmp_path):
    done = check(tmp_path, [process("a", replicas=-1), {"id": "b", "kind": "wurker"}], intensity=-1)

    assert done.returncode == 2
    assert [line.split("=")[0] for line in done.stderr.splitlines()] == [
        "error: orchestrator.toml: supervisor.intensity", "error: orchestrator.toml: a.replicas",
        "error: orchestrator.toml: b.kind",
    ]  # fmt: skip
