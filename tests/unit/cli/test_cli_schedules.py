"""``celery -A APP schedules``, in eager mode."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from celery.beat import BeatLazyFunc
from kombu import Queue
from kombu.common import Broadcast

from orchestrator import Orchestrator
from orchestrator.cli.schedules.group import schedules
from tests.apps import workflows_app
from tests.support.command_line import invoke

CLEANUP = "celery.backend_cleanup"


@pytest.fixture
def orchestrator() -> Orchestrator:
    return workflows_app.make(eager=True)


def run(orchestrator: Orchestrator, *arguments: str) -> tuple[int, str, str]:
    result = invoke(orchestrator.app, schedules, *arguments)
    return result.exit_code, result.stdout, result.stderr


def document(orchestrator: Orchestrator, *arguments: str, code: int = 0) -> Any:
    result = invoke(orchestrator.app, schedules, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def add_poll(orchestrator: Orchestrator, name: str = "poll") -> None:
    code, _, error = run(orchestrator, "add", name, "--task", "plain.add", "--args", "[1, 2]", "--every", "30s")
    assert code == 0, error


def test_a_schedule_is_added_shown_changed_and_removed(orchestrator: Orchestrator) -> None:
    assert "none" in run(orchestrator, "list")[1]
    add_poll(orchestrator)
    added = document(
        orchestrator, "add", "nightly", "--agent", "counter", "--message", "List", "--fields", '{"count": 2}',
        "--cron", "30 2 13 * fri", "--tz", "Europe/Berlin", "--overlap", "skip", "--retries", "2",
    )  # fmt: skip
    assert len(added["times"]) == 5
    assert [warning["code"] for warning in added["warnings"]] == ["day-and-weekday"]
    table = run(orchestrator, "list")[1]
    assert all(text in table for text in ("poll", "every 30s", "plain.add", "nightly", "counter: List", "active"))
    shown = document(orchestrator, "show", "nightly")
    assert shown["definition"]["policy"]["retry"]["n"] == 2
    assert (shown["state"], shown["counts"]["due"], shown["not_exactly_once"]) == ("active", 0, "")
    assert "due 0 = fired 0" in run(orchestrator, "show", "nightly")[1]
    assert run(orchestrator, "update", "poll", "--every", "1m", "--jitter", "5s")[0] == 0
    assert document(orchestrator, "show", "poll")["trigger"] == "every 1m"
    assert run(orchestrator, "remove", "poll")[:2] == (0, "poll: removed\n")
    assert run(orchestrator, "remove", "poll")[0] == 1
    assert [one["id"] for one in document(orchestrator, "list")["schedules"]] == ["nightly"]


class SendsItself(Task):
    """A task class with an ``apply_async`` of its own."""

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Send."""
        return super().apply_async(*args, **options)


def do_nothing() -> None:
    """Do nothing."""


def test_what_is_not_accepted_exactly_once_is_marked(orchestrator: Orchestrator) -> None:
    app = orchestrator.app
    app.task(name="own.way", base=SendsItself, shared=False)(do_nothing)
    app.conf.task_queues = [Queue("celery"), Broadcast("all-workers")]

    def entry(task: str = "plain.add", **more: Any) -> dict[str, Any]:
        return {"task": task, "schedule": 60, **more}

    app.conf.beat_schedule = {
        "plain": entry(),
        "class": entry("own.way"),
        "copies": entry(options={"queue": "all-workers"}),
        "other": entry(options={"connection": app.connection_for_write()}),
        "lazy": entry(args=(BeatLazyFunc(dict),)),
        "nobody": entry("ledgers.add"),
        "agents": entry("counter.List"),
    }
    lines = run(orchestrator, "list")[1].splitlines()
    said = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines if ": " in line}
    assert "plain" not in said
    assert "agents" not in said
    assert said["class"].startswith("not exactly once: own.way sends its messages itself")
    assert said["copies"] == "not exactly once: each worker reads a copy from queue all-workers"
    assert said["lazy"] == "only a scheduler whose code declares it fires it"
    assert said["nobody"] == "this app has no task 'ledgers.add'; it is sent by its name"
    other = document(orchestrator, "show", "other")
    assert other["not_exactly_once"] == "its options name another connection"
    assert other["note"] == said["lazy"]
    assert "no: each worker reads a copy" in run(orchestrator, "show", "copies")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--task", "plain.add"], "exactly one of"),
        (["x", "--every", "5s"], "either --task"),
        (["x", "--task", "t", "--agent", "counter", "--message", "List", "--every", "5s"], "either --task"),
        (["x", "--task", "plain.add", "--cron", "61 * * * *"], "59 * * * *"),
        (["x", "--task", "plain.add", "--cron", "* * * * *", "--tz", "Europe/Berln"], "Europe/Berlin"),
        (["a:b", "--task", "plain.add", "--every", "5s"], "a-b"),
        (["x", "--task", "plain.add", "--every", "5s", "--misfire", "colaesce"], "coalesce"),
        (["x", "--task", "plain.add", "--args", "{}", "--every", "5s"], "a list"),
        (["x", "--agent", "counterr", "--message", "List", "--every", "5s"], "counter"),
        (["x", "--task", "plain.add", "--at", "2026-10-25T02:30"], "time zone"),
    ],
)
def test_what_cannot_be_added_says_why(orchestrator: Orchestrator, arguments: list[str], says: str) -> None:
    code, _, error = run(orchestrator, "add", *arguments)
    assert code == 2
    assert says in error


def test_a_taken_name_is_an_error_unless_asked_otherwise(orchestrator: Orchestrator) -> None:
    add_poll(orchestrator)
    again = ["add", "poll", "--task", "plain.add", "--every", "5s"]
    assert run(orchestrator, *again)[0] == 2
    assert run(orchestrator, *again, "--if-exists", "keep")[0] == 0
    assert document(orchestrator, "show", "poll")["trigger"] == "every 30s"


def test_a_schedule_is_paused_resumed_triggered_and_backfilled(orchestrator: Orchestrator) -> None:
    add_poll(orchestrator)
    assert run(orchestrator, "pause", "poll", "--reason", "release")[:2] == (0, "poll: paused\n")
    assert run(orchestrator, "pause", "poll")[::2] == (1, "Error: poll: paused already\n")
    assert "release" in run(orchestrator, "explain", "poll")[1]
    assert [one["id"] for one in document(orchestrator, "list", "--state", "paused")["schedules"]] == ["poll"]
    assert document(orchestrator, "resume", "poll") == {"id": "poll", "changed": True}
    assert "fired as delivery" in run(orchestrator, "trigger", "poll")[1]
    begin = datetime.now(UTC) + timedelta(hours=1)
    end = begin + timedelta(minutes=2)
    assert document(orchestrator, "backfill", "poll", begin.isoformat(), end.isoformat())["fired"] in (4, 5)
    far = begin + timedelta(days=3650)
    code, _, error = run(orchestrator, "backfill", "poll", begin.isoformat(), far.isoformat())
    assert code == 2
    assert "at most 10000" in error
    assert run(orchestrator, "backfill", "poll", "2026-10-25T02:30", far.isoformat())[0] == 2
    for command in ("show", "pause", "resume", "trigger", "preview", "explain", "history", "lint"):
        code, _, error = run(orchestrator, command, "pol")
        assert code == 2, command
        assert "pol" in error


def test_what_became_of_the_times_is_shown(orchestrator: Orchestrator) -> None:
    add_poll(orchestrator)
    assert orchestrator.schedules.advance(65) == 2
    entries = document(orchestrator, "history", "poll")["entries"]
    assert [entry["fate"] for entry in entries] == ["fired", "fired"]
    table = run(orchestrator, "history")[1]
    assert "fired" in table
    lines = document(orchestrator, "explain", "poll", "--at", entries[0]["first"])["lines"]
    assert "fired as delivery" in lines[0]
    assert document(orchestrator, "show", "poll")["counts"]["fired"] == 2
    assert len(document(orchestrator, "preview", "poll", "--count", "3")["times"]) == 3
    assert run(orchestrator, "preview", "poll", "--count", "10000000")[0] == 2


def test_lint_finds_what_may_surprise(orchestrator: Orchestrator) -> None:
    add_poll(orchestrator)
    assert run(orchestrator, "lint")[:2] == (0, "Findings: 0\n")
    run(orchestrator, "add", "n", "--task", "plain.add", "--cron", "30 2 * * *", "--tz", "Europe/Berlin")
    findings = document(orchestrator, "lint", "n", code=1)["findings"]
    assert [finding["code"] for finding in findings] == ["dst-fold", "dst-gap"]
    assert run(orchestrator, "lint")[0] == 1


def test_an_export_is_imported_again(orchestrator: Orchestrator, tmp_path: Path) -> None:
    add_poll(orchestrator)
    orchestrator.schedules.advance(31)
    run(orchestrator, "pause", "poll", "--reason", "release")
    path = tmp_path / "schedules"
    assert run(orchestrator, "export", str(path))[0] == 0
    assert path.stat().st_mode & 0o077 == 0
    other = workflows_app.make(eager=True)
    taken = document(other, "import", "--from", "export", str(path), "--dry-run")["schedules"]
    assert [one["action"] for one in taken] == ["added"]
    assert document(other, "list")["count"] == 0
    assert document(other, "import", "--from", "export", str(path))["schedules"][0]["action"] == "added"
    shown = document(other, "show", "poll")
    assert (shown["state"], shown["paused"]) == ("paused", "release")
    assert document(other, "import", "--from", "export", str(path))["schedules"][0]["action"] == "exists"
    path.write_text("{}\n")
    assert document(other, "import", "--from", "export", str(path), code=1)["schedules"][0]["action"] == "left out"


def test_an_import_goes_on_from_the_last_run(orchestrator: Orchestrator, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    row = {"task": "plain.add", "args": "[1, 2]", "kwargs": "{}", "interval": 1, "enabled": True}
    ran = {"last_run_at": (now - timedelta(seconds=1000)).isoformat()}
    dump = [
        {"model": "django_celery_beat.intervalschedule", "pk": 1, "fields": {"every": 300, "period": "seconds"}},
        {"model": "django_celery_beat.periodictask", "pk": 1, "fields": {**row, **ran, "name": "a: b"}},
        {
            "model": "django_celery_beat.periodictask",
            "pk": 2,
            "fields": {**row, **ran, "name": "off", "enabled": False},
        },
        {"model": "django_celery_beat.periodictask", "pk": 3, "fields": {**row, "name": "no", "interval": 2}},
        {"model": "django_celery_beat.periodictask", "pk": 4, "fields": {**row, "name": "c", "task": CLEANUP}},
    ]
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(dump))
    table = run(orchestrator, "import", "--from", "django-celery-beat", str(path), "--dry-run")[1]
    assert "to be added" in table
    assert document(orchestrator, "list")["count"] == 0
    taken = document(orchestrator, "import", "--from", "django-celery-beat", str(path), code=1)["schedules"]
    assert {one["name"]: one["action"] for one in taken} == {
        "a- b": "added",
        "off": "added",
        "no": "left out",
        "c": "exists",
    }
    assert document(orchestrator, "show", "off")["state"] == "paused"
    # Three times have passed since: they are one fire.
    assert orchestrator.schedules.advance(1) == 1
    counts = document(orchestrator, "show", "a- b")["counts"]
    assert (counts["fired"], counts["coalesced"]) == (1, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "redbeat", "file"],
        ["--from", "crontab"],
        ["--from", "crontab", "/nosuch"],
        ["--from", "celerybeat-schedule", "/nosuch"],
        ["--from", "nosuch"],
        ["--from", "redbeat", "--url", "nonsense"],
    ],
)
def test_a_source_that_cannot_be_read_is_refused(orchestrator: Orchestrator, arguments: list[str]) -> None:
    code, _, error = run(orchestrator, "import", *arguments)
    assert code == 2
    assert error
