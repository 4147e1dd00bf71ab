"""A real Flower, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.worker_process import ROOT


@dataclass(frozen=True)
class Flower:
    """A Flower that answers."""

    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        """A document of its API."""
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def lengths(self) -> dict[str, int]:
        """Queue lengths as its API has them."""
        return {q["name"]: q["messages"] for q in self.json("/api/queues/length")["active_queues"]}

    def tasks(self) -> set[tuple[str, str]]:
        """Names and states of the tasks it has seen."""
        return {(task["name"], task["state"]) for task in self.json("/api/tasks").values()}


@contextmanager
def running_flower(app: str, redis_url: str, log: Path) -> Iterator[Flower]:
    """``celery -A APP flower``, once it answers."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, "flower", "--address=127.0.0.1", "--port=0"],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "ORCHESTRATOR_BROKER_URL": redis_url,
                "FLOWER_UNAUTHENTICATED_API": "true",
            },
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        found = eventually(
            lambda: re.search(r"Visit me at (http://\S+:\d+)\n", log.read_text()), timeout_s=30, describe=log.read_text
        )
        assert found is not None
        yield Flower(found[1], process)
    finally:
        process.kill()
        process.wait(timeout=10)
