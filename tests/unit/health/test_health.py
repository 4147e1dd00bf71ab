"""What `orchestrator health` concludes from what a process wrote, and that it is quick to conclude anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import orchestrator
from orchestrator.command import main
from orchestrator.health import files
from orchestrator.health.health_reporter import HealthReporter
from orchestrator.health.judge import Exit, liveness, readiness, sweeps

WELL = {
    "node": "w1@h",
    "at_s": 100.0,
    "incarnation": "w1@h:1#1",
    "fenced_s": None,
    "away": False,
    "beat_age_s": 0.3,
    "not_polling_s": 0.0,
    "sweep_age_s": 0.9,
    "stuck_s": 10.0,
    "sweep_stale_s": 3.0,
}


@pytest.mark.parametrize(
    ("changes", "alive", "ready"),
    [
        ({}, Exit.HEALTHY, Exit.HEALTHY),
        ({"at_s": 65.0}, Exit.UNHEALTHY, Exit.UNHEALTHY),
        ({"fenced_s": 2.0}, Exit.HEALTHY, Exit.UNHEALTHY),
        ({"fenced_s": 61.0}, Exit.UNHEALTHY, Exit.UNHEALTHY),
        ({"not_polling_s": 11.0}, Exit.HEALTHY, Exit.UNHEALTHY),
        ({"not_polling_s": 61.0}, Exit.UNHEALTHY, Exit.UNHEALTHY),
        ({"sweep_age_s": None}, Exit.HEALTHY, Exit.UNHEALTHY),
        ({"sweep_age_s": 11.0}, Exit.HEALTHY, Exit.UNHEALTHY),
        # Without Redis nobody consumes and nobody sweeps, and a restart would not change that.
        ({"away": True}, Exit.HEALTHY, Exit.BROKER_AWAY),
        ({"away": True, "not_polling_s": 61.0, "sweep_age_s": 3600.0}, Exit.HEALTHY, Exit.BROKER_AWAY),
        ({"beat_age_s": 11.0}, Exit.HEALTHY, Exit.BROKER_AWAY),
    ],
)
def test_liveness_asks_whether_a_restart_would_help_and_readiness_whether_it_works(
    changes: dict[str, Any], alive: Exit, ready: Exit
) -> None:
    vitals = {**WELL, **changes}
    assert liveness(vitals, 101.0)[0] is alive
    assert readiness(vitals, 101.0)[0] is ready


def test_readiness_says_what_it_waits_for_and_for_how_long() -> None:
    assert readiness({**WELL, "sweep_age_s": None}, 101.0)[1] == (
        "waits for the first sweep, which finds dead workers: the monitor manager sweeps when beat runs, "
        "and else a worker, about 3 s after its start"
    )
    assert readiness({**WELL, "sweep_age_s": 11.0}, 101.0)[1] == (
        "dead workers are not found: the last sweep was 11 s ago; allowed: 10"
    )


def test_a_worker_that_starts_or_waits_for_redis_is_alive_and_not_ready() -> None:
    vitals = {"node": "w1@h", "at_s": 100.0}
    assert liveness(vitals, 101.0)[0] is Exit.HEALTHY
    assert readiness(vitals, 101.0)[0] is Exit.UNHEALTHY


def test_a_worker_whose_consumer_never_came_back_needs_a_restart() -> None:
    vitals = {"node": "w1@h", "at_s": 100.0, "absent_s": 59.0}
    assert liveness(vitals, 101.0)[0] is Exit.HEALTHY
    assert readiness(vitals, 101.0)[0] is Exit.UNHEALTHY
    code, said = liveness({**vitals, "absent_s": 61.0}, 101.0)
    assert (code, said) == (Exit.UNHEALTHY, "has consumed nothing for 61 s although Redis answers")


@pytest.mark.parametrize(
    ("at_ms", "by", "code"),
    [
        (None, "", Exit.UNHEALTHY),
        (99_000, "monitor-manager", Exit.HEALTHY),
        (99_000, "w1@h:1#1", Exit.UNHEALTHY),
        (80_000, "monitor-manager", Exit.UNHEALTHY),
    ],
)
def test_a_sweep_counts_if_it_is_fresh_and_the_managers(at_ms: int | None, by: str, code: Exit) -> None:
    assert sweeps(at_ms, by, "monitor-manager", 100_000)[0] is code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HEALTH_DIR", str(tmp_path / "health"))
    return files.directory_to_write()


def test_the_probe_names_whom_it_found_and_can_be_told_whom_to_look_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health"]) == 1
    assert "no worker runs here" in capsys.readouterr().err
    files.write(folder, {**WELL, "at_s": monotonic()})
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "w1@h: alive\n"
    assert main(["health", "--ready", "--node", "w1@h"]) == 0
    assert main(["health", "--pid", str(os.getpid())]) == 0
    assert main(["health", "--node", "w2@h"]) == 1
    assert "no worker called w2@h runs here" in capsys.readouterr().err


def test_the_files_of_the_dead_are_not_believed_and_removed(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / f"{gone.pid}.json").write_text(json.dumps({**WELL, "pid": gone.pid, "born": 1}))
    # The same pid, but another process.
    (folder / "1.json").write_text(json.dumps({**WELL, "pid": os.getpid(), "born": 1}))
    assert list(files.living(folder)) == []
    files.remove_leftovers(folder)
    assert not (folder / f"{gone.pid}.json").exists()


def test_a_directory_that_others_may_write_to_is_not_believed(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    files.write(folder, {**WELL, "at_s": monotonic()})
    folder.chmod(0o777)
    assert main(["health"]) == 1
    assert "no other may write to" in capsys.readouterr().err
    HealthReporter().start("w1@h")
    assert "`orchestrator health` does not list this process" in caplog.text


def test_a_pulse_says_what_it_is_told_and_leaves_nothing_behind(folder: Path) -> None:
    pulse = HealthReporter()
    pulse.watch(lambda: {"incarnation": "w1@h:1#1"})
    pulse.start("w1@h")
    (vitals,) = files.living(folder)
    assert (vitals["node"], vitals["incarnation"]) == ("w1@h", "w1@h:1#1")
    pulse.stop()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["health", "--pid", "x"], ["health", "--ready", "--sweep"], ["heal"]])
def test_a_command_line_that_makes_no_sense_has_its_own_exit_code(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.USAGE


@pytest.mark.parametrize("url", ["sentinel://h:26379/0", "redis://h:port/0"])
def test_a_broker_that_cannot_be_asked_is_a_matter_of_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    assert main(["health", "--sweep"]) == Exit.USAGE


def test_the_probe_loads_neither_celery_nor_a_redis_client_nor_pydantic(folder: Path) -> None:
    program = (
        "import sys; from orchestrator.command import main; import orchestrator.health.ask_redis;"
        "main(['health']);"
        "print(sorted({'celery', 'kombu', 'redis', 'pydantic', 'click', 'orchestrator.app'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_loaded_when_asked_for_is_all_there() -> None:
    assert sorted({*orchestrator._WHERE, "__version__"}) == sorted(orchestrator.__all__)
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Orchestra'"):
        getattr(orchestrator, "Orchestra")  # noqa: B009 - mypy would see through the plain form


def test_metrics_without_a_port_say_which_setting_gives_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HEALTH_DIR", str(tmp_path))
    assert main(["metrics"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert "metrics_port" in printed.err


@pytest.mark.parametrize("probe", ["--schedules", "--sweep"])
def test_a_probe_says_that_nobody_has_named_redis(
    probe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.delenv("ORCHESTRATOR_BROKER_URL", raising=False)
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    assert main(["health", probe]) == 3
    assert "ORCHESTRATOR_BROKER_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:1/0")
    assert main(["health", probe]) == 3
    assert "ORCHESTRATOR_BROKER_URL" not in capsys.readouterr().err
