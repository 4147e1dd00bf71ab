"""docs/examples/importer.py really runs: in eager mode, and with two processes of which the leader is killed."""

from __future__ import annotations

import os
import runpy
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import make
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "importer.py"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"day-{number:04}.csv" for number in range(3)]
    for file in made:
        file.write_text("a\nb\n")
    return made


def test_it_imports_each_file_once_and_refuses_who_was_superseded(tmp_path: Path, files: list[Path]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    database = sqlite3.connect(tmp_path / "imported.db")
    database.executescript(example["SCHEMA"])
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    seen: list[str] = []
    for _ in range(2):
        assert example["lead"](orchestrator, database, files, seen.append)
    assert seen == [file.name for file in files]
    assert database.execute("SELECT count(*) FROM rows").fetchone() == (6,)
    with pytest.raises(example["Superseded"]):
        example["store"](database, "late.csv", ["c"], 1)
    assert example["imported"](database) == {file.name for file in files}
    database.close()
    orchestrator.app.close()


def test_it_waits_for_redis_if_that_is_away_as_a_session_opens(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: the process ended with a traceback."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    session = orchestrator.monitors.session
    waited: list[float] = []

    def away_at_first() -> Any:
        if not waited:
            raise BrokerUnavailable("redis://127.0.0.1:1/0", "connection refused")
        return session()

    monkeypatch.setattr(orchestrator.monitors, "session", away_at_first)
    monkeypatch.setitem(main.__globals__, "Orchestrator", lambda app: orchestrator)
    monkeypatch.setitem(main.__globals__, "sleep", waited.append)
    main("redis://127.0.0.1:1/0", str(tmp_path / "imported.db"), *map(str, files))
    said = capsys.readouterr()
    assert said.out.split() == [file.name for file in files]
    assert "not available" in said.err
    assert waited == [1]
    orchestrator.app.close()


@pytest.mark.slow
def test_the_next_one_goes_on_where_the_leader_was_killed(tmp_path: Path) -> None:
    # A pipe is a file that is not read before the test writes to it: there the first leader stands.
    names = [tmp_path / f"day-{number}.csv" for number in range(4)]
    for name in (names[0], names[1], names[3]):
        name.write_text("a\nb\n")
    os.mkfifo(names[2])
    path = tmp_path / "imported.db"
    with EmbeddedServer() as server:
        command = [sys.executable, str(EXAMPLE), server.url, str(path), *map(str, names)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        running: list[Any] = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)]
        try:
            database = sqlite3.connect(path, timeout=30)
            assert [running[0].stdout.readline().strip() for _ in range(2)] == ["day-0.csv", "day-1.csv"]
            running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
            orchestrator = make(server.url)
            eventually(lambda: orchestrator.coordination.elections()[0][0].waiting == 1, timeout_s=30)
            running[0].kill()
            names[2].unlink()
            names[2].write_text("a\nb\n")
            assert running[1].wait(timeout=60) == 0
            assert running[1].stdout.read().split() == ["day-2.csv", "day-3.csv"]
            assert database.execute("SELECT file, count(*) FROM rows GROUP BY file").fetchall() == [
                (f"day-{number}.csv", 2) for number in range(4)
            ]
            database.close()
            orchestrator.app.close()
        finally:
            for process in running:
                process.kill()
                process.wait()
                process.stdout.close()
