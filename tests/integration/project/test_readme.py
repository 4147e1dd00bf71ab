"""README's first agent really runs, and prints what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT, WorkerProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Your first agent")[1].split("\n## ")[0]


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Path:
    agent, sender = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    (tmp_path / "shop.py").write_text(agent.replace("redis://127.0.0.1:6379/0", redis_url))
    (tmp_path / "send.py").write_text(sender)
    return tmp_path


def environment(shop: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{shop}{os.pathsep}{ROOT}"}


def run(shop: Path, script: str) -> str:
    return subprocess.run(
        [sys.executable, script],
        cwd=shop,
        env={**os.environ, **environment(shop)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_the_first_agent_is_about_twenty_lines(shop: Path) -> None:
    lines = [line for line in (shop / "shop.py").read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20


def test_the_first_agent_runs(shop: Path, redis_url: str) -> None:
    with WorkerProcess("shop", redis_url, name="billing", environment=environment(shop)):
        printed = run(shop, "send.py")
    shown = SECTION.split("```\n\n```\n")[1].split("```")[0]
    assert printed == shown


def test_the_eager_example_runs_without_redis(shop: Path) -> None:
    example = README.split("## In tests")[1].split("```python\n")[1].split("```")[0]
    away = (shop / "shop.py").read_text().replace("redis://127.0.0.1:", "redis://127.0.0.1:1")
    (shop / "shop.py").write_text(re.sub(r"redis://127\.0\.0\.1:\d+", "redis://127.0.0.1:1", away))
    (shop / "eager.py").write_text(f"from shop import app, Charge, orchestrator\n{example}print('ran')\n")
    assert run(shop, "eager.py") == "ran\n"
