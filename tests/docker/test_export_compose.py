"""``orchestrator supervise export compose`` of this repository's own tree: built, started, and a message is handled."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.stack import ROOT, compose_command, docker, engine_answers, run
from tests.support.eventually import eventually
from tests.support.supervised import ORCHESTRATOR

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

#: Sends a message from within, and prints what becomes of it.
_SEND = """
from workers import orchestrator
from workers.auditors import Audit
outcome = orchestrator.send("auditor", Audit(path="/app/workers/app.py")).wait(timeout_s=30)
print(type(outcome).__name__)
"""

Compose = Callable[..., str]


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[tuple[str, Compose]]:
    """The printed file, and Compose with it; all that it has made is removed after the test."""
    command = compose_command() if engine_answers() else None
    if command is None:
        pytest.skip("no Docker engine with Compose answers")
    name = f"orchestrator-export-{secrets.token_hex(4)}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    printed = subprocess.run(
        [ORCHESTRATOR, "supervise", "export", "compose"],
        cwd=ROOT,
        env={**os.environ, "FLOWER_PORT": port},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "compose.yaml").write_text(printed)
    # The host's network, because a proxy or a mirror on it may be the only way to the package index.
    built = re.findall(r"^  (\S+):\n    image: .*\n    build: ", printed, re.MULTILINE)
    networks = "".join(f"  {service}: {{build: {{network: host}}}}\n" for service in built)
    (tmp_path / "network.yaml").write_text(f'version: "3.4"\nservices:\n{networks}')
    files = ("--file", str(tmp_path / "compose.yaml"), "--file", str(tmp_path / "network.yaml"))

    def compose(*arguments: str) -> str:
        project = ("--project-directory", str(ROOT), "--project-name", name)
        return run([*command, *files, *project, *arguments], {"IMAGE": name})

    yield printed, compose
    compose("down", "--volumes", "--timeout", "10")
    docker("image", "rm", "--force", name)


def test_the_printed_file_builds_starts_and_handles_a_message(exported: tuple[str, Compose]) -> None:
    printed, compose = exported
    services = re.findall(r"^  (\S+):\n    image: ", printed, re.MULTILINE)
    assert services == ["redis", "manager", "auditor", "beat", "flower"]
    compose("up", "--build", "--detach")

    def are_up() -> bool:
        running = compose("ps", "--quiet", *services).split()
        states = [docker("inspect", "--format", "{{.State.Status}} {{json .State.Health}}", one) for one in running]
        return len(states) == len(services) and sum('"Status":"healthy"' in one for one in states) == len(services) - 1

    def logs() -> str:
        return compose("logs", "--no-color", "--tail", "30")

    # Each but beat, which has no health check, says that it is well.
    eventually(are_up, timeout_s=120, describe=logs)
    assert compose("exec", "-T", "manager", "python", "-c", _SEND).strip() == "Handled"
