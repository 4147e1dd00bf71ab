"""`orchestrator supervise --check` starts nothing, and says what it would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.embedded.ports import free_port
from orchestrator.supervisor.reading import asked_app
from orchestrator.supervisor.reading import read as reading
from tests.support.supervised import ORCHESTRATOR, process, toml

ROOT = Path(__file__).parents[3]

BEAT = {"id": "beat", "kind": "beat"}


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
        (
            {"id": "s", "children": [{"id": "a", "kind": "worker", "queues": ["counter"]}, BEAT]},
            "tests.apps.supervised_app",
            "no worker serves queue celery, to which beat sends celery.backend_cleanup",
        ),
        (process("a", ["/no/such/program"]), "x", "a: '/no/such/program' is not an executable file on PATH"),
        (process("a", directory="nowhere"), "x", "nowhere is not there"),
    ],
    ids=["mailbox", "queue", "beat", "program", "directory"],
)
def test_warnings(tmp_path, child, app, warning):
    done = check(tmp_path, [child], app=app)

    assert done.returncode == 0
    assert warning in done.stderr
    assert done.stdout.splitlines()[0] == "orchestrator.toml: one_for_one, 9 restarts in 60 s, then escalate"
    assert not (tmp_path / ".state").exists()


def test_without_an_intensity_three_restarts_of_each_process_are_allowed(tmp_path):
    group = {"id": "s", "children": [process("a", replicas=4)]}
    done = check(tmp_path, [group, process("b")], app="x")

    assert [line for line in done.stdout.splitlines() if "one_for_one" in line] == [
        "orchestrator.toml: one_for_one, 15 restarts in 60 s, then escalate",
        "s: one_for_one, 12 restarts in 60 s, then escalate",
    ]


def test_the_intensity_that_hold_brings_with_it_is_shown(tmp_path):
    held = {"id": "s", "children": [process("a", replicas=4)], "on_give_up": "hold"}
    done = check(tmp_path, [held], app="x")

    assert done.stdout.splitlines()[1] == (
        "s: one_for_one, 1 restart in 60 s of all its children together "
        '(the default with on_give_up = "hold"), then hold'
    )


def test_an_app_that_cannot_be_imported_is_an_error(tmp_path):
    done = check(tmp_path, [{"id": "a", "kind": "worker"}], app="no_such_app")

    assert done.returncode == 2
    assert "error: app no_such_app: cannot be imported: " in done.stderr


def test_queues_that_the_app_knows_are_not_warned_of(tmp_path):
    queues = ["counter", "celery", "monitor-manager"]
    done = check(tmp_path, [{"id": "a", "kind": "worker", "queues": queues}, BEAT])

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        (
            "beat_schedule = {'bad': {'task': 'a', 'schedule': 5, 'options': 7}, 'good': {'task': 'b', 'schedule': 5}}",
            "entry 'bad' of beat_schedule: its queue is not known: ",
        ),
        (
            "beat_schedule = {'bad': {'nonsense': 1}, 'good': {'task': 'b', 'schedule': 5}}",
            "entry 'bad' of beat_schedule: its queue is not known: ",
        ),
        ("beat_schedule = {'bad': {'task': 'a', 'schedule': 5}, 'good': {'task': 'b', 'schedule': 5}}", ""),
        ("beat_schedule = [7]", "beat_schedule: "),
    ],
    ids=["options", "keys", "route", "list"],
)
def test_an_entry_of_which_the_queue_is_not_known_hides_no_other(tmp_path, setting, fault):
    """Regression: one that raised silenced the warnings of all entries."""
    text = "from celery import Celery\napp = Celery('routed')\n"
    route = "def route(name, *args, **options):\n    if name == 'a':\n        raise LookupError('no such route')\n"
    uses_route = "app.conf.task_routes = (route,)\n" if not fault else ""
    (tmp_path / "routed.py").write_text(f"{text}{route}{uses_route}app.conf.{setting}\n")
    done = check(tmp_path, [{"id": "a", "kind": "worker", "queues": ["other"]}, BEAT], app="routed")

    assert done.returncode == 0
    assert (fault or "entry 'bad' of beat_schedule: its queue is not known: LookupError: no such route") in done.stderr
    assert "[7]" in setting or "no worker serves queue celery, to which beat sends" in done.stderr
    assert "[7]" in setting or "good" in done.stderr


def test_all_faults_at_once_and_exit_code_2(tmp_path):
    done = check(tmp_path, [process("a", replicas=-1), {"id": "b", "kind": "wurker"}], intensity=-1)

    assert done.returncode == 2
    assert [line.split("=")[0] for line in done.stderr.splitlines()] == [
        "error: orchestrator.toml: supervisor.intensity", "error: orchestrator.toml: a.replicas",
        "error: orchestrator.toml: b.kind",
    ]  # fmt: skip


def test_a_redis_at_another_port_than_the_apps_broker_is_warned_of(tmp_path):
    write_app(tmp_path, "redis://127.0.0.1:6473/0")
    children = [{"id": "redis", "kind": "redis", "port": 6479}, {"id": "a", "kind": "worker"}]
    done = check(tmp_path, children, app="brokered")

    assert done.returncode == 0
    assert "app brokered: its broker is redis://127.0.0.1:6473/0, but the tree's Redis listens at 127.0.0.1:6479" in (
        done.stderr
    )


def test_a_redis_at_the_port_of_the_apps_broker_is_not(tmp_path):
    write_app(tmp_path, "redis://localhost:6479/0")
    children = [{"id": "redis", "kind": "redis", "port": 6479}, {"id": "a", "kind": "worker"}]
    assert "its broker is" not in check(tmp_path, children, app="brokered").stderr


@pytest.mark.parametrize(
    ("broker", "is_started"),
    [("redis://127.0.0.1:6473/0", False), ("redis://elsewhere:6379/0", False), ("redis://127.0.0.1:6379/0", True)],
)
def test_the_default_tree_starts_a_redis_only_where_the_app_looks_for_one(tmp_path, monkeypatch, broker, is_started):
    monkeypatch.setattr(asked_app, "REDIS_PORT", port := free_port())
    write_app(tmp_path, broker.replace("6379", str(port)))
    for name in ("ORCHESTRATOR_BROKER_URL", "ORCHESTRATOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    assert reading.needs_redis("brokered", tmp_path) is is_started


def test_the_default_tree_of_an_app_that_names_no_broker_starts_a_redis(tmp_path, monkeypatch):
    monkeypatch.setattr(asked_app, "REDIS_PORT", free_port())
    (tmp_path / "plain.py").write_text("from celery import Celery\napp = Celery('plain')\n")
    for name in ("ORCHESTRATOR_BROKER_URL", "ORCHESTRATOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    assert reading.needs_redis("plain", tmp_path)


def write_app(directory: Path, broker: str) -> None:
    text = "from celery import Celery\nfrom orchestrator import Orchestrator\n"
    (directory / "brokered.py").write_text(f"{text}app = Celery('brokered', broker={broker!r})\nOrchestrator(app)\n")
