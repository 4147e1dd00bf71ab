"""Workers of several apps on one host: the probe looks at those that are meant, and names the Redis that it asks."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from orchestrator.command import main
from orchestrator.health import files
from orchestrator.health.ask_redis import asked
from orchestrator.health.judge import Exit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HEALTH_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return tmp_path


def beat(folder: Path, monkeypatch: pytest.MonkeyPatch, pid: int, **vitals: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        files.write(folder, {"at_s": monotonic(), **vitals})


def test_workers_of_another_app_do_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = os.getpid(), os.getppid()
    beat(folder, monkeypatch, mine, node="w1@h", app="shop", broker="redis://a:6379/0")
    beat(folder, monkeypatch, other, node="w1@h", app="bank", broker="redis://b:6379/0", fenced_s=100)
    assert main(["health", "--app", "shop"]) == 0
    assert capsys.readouterr().out == "w1@h: alive\n"
    assert main(["health", "--app", "bank", "--node", "w1@h"]) == 1
    assert main(["health"]) == 1
    assert "w1@h (app bank, redis://b:6379/0): was declared dead" in capsys.readouterr().err
    assert main(["health", "--app", "shoop"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "no worker of app shoop runs here; here run: w1@h (app bank, redis://b:6379/0), w1@h (app shop"
    )


def test_a_probe_of_the_sweep_names_the_redis_that_it_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", "redis://ann:S3CRET@127.0.0.1:1/3")
    monkeypatch.setenv("ORCHESTRATOR_KEY_PREFIX", "shop:")
    assert main(["health", "--sweep"]) == Exit.BROKER_AWAY
    said = capsys.readouterr().err
    assert said.startswith("redis://ann:**@127.0.0.1:1/3 (keys shop:…): ")
    assert "S3CRET" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:p@h/0", "redis://:**@h/0"),
        ("redis://:p@ss@h/0", "redis://:**@h/0"),
        ("redis://h:1/0;rediss://u:p@i:2/0", "redis://h:1/0;rediss://u:**@i:2/0"),
    ],
)
def test_a_password_is_not_named(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    monkeypatch.delenv("ORCHESTRATOR_KEY_PREFIX", raising=False)
    assert asked() == shown
