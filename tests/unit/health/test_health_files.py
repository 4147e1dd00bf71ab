"""What others put where health files lie neither hides a worker nor stops the probe."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from orchestrator.command import main
from orchestrator.health import files
from orchestrator.health.health_reporter import HealthReporter


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of this user lie if the environment does not say so."""
    monkeypatch.delenv("ORCHESTRATOR_HEALTH_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"orchestrator-health-{os.getuid()}"


def plant_directory(path: Path) -> None:
    path.mkdir()
    # Another user's: only root can give a directory away, so it is one that others may write to.
    path.chmod(0o777)


PLANTED: dict[str, Callable[[Path], Any]] = {
    "a directory": plant_directory,
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_another_user_plants_under_the_usual_name_is_passed_over(
    usual: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PLANTED[what](usual)
    assert main(["health"]) == 1
    assert "no worker runs here" in capsys.readouterr().err
    pulse = HealthReporter()
    pulse.start("w1@h")
    try:
        assert main(["health", "--node", "w1@h"]) == 0
        (folder,) = files.directories()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert files.directory_to_write() == folder, "the next process uses the same one"
    finally:
        pulse.stop()
    assert list(folder.iterdir()) == []


def test_the_usual_directory_is_used_where_nobody_has_planted_anything(usual: Path) -> None:
    assert files.directory_to_write() == usual
    assert files.directories() == [usual]


RUBBISH = {
    "no JSON": "{",
    "no object": "[]",
    "no pid": json.dumps({"node": "x"}),
    "a pid that is no number": json.dumps({"node": "x", "pid": {}, "born": None}),
    "a pid that no kernel gives": json.dumps({"node": "x", "pid": 10**30, "born": None}),
    "a node that is no text": json.dumps({"node": 1, "pid": os.getpid(), "born": None}),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_among_the_files_does_not_stop_the_probe(usual: Path, what: str) -> None:
    folder = files.directory_to_write()
    (folder / "1.json").write_text(RUBBISH[what])
    files.write(folder, {"node": "w1@h", "at_s": monotonic()})
    assert [vitals["node"] for vitals in files.living(folder)] == ["w1@h"]


def test_pipes_and_links_among_the_files_are_not_opened(usual: Path, tmp_path: Path) -> None:
    folder = files.directory_to_write()
    os.mkfifo(folder / "1.json")
    os.mkfifo(folder / f"{os.getpid()}.tmp")
    (tmp_path / "elsewhere.json").write_text(json.dumps({"node": "x", "pid": os.getpid(), "born": None}))
    (folder / "2.json").symlink_to(tmp_path / "elsewhere.json")
    files.write(folder, {"node": "w1@h", "at_s": monotonic()})
    assert [vitals["node"] for vitals in files.living(folder)] == ["w1@h"]
