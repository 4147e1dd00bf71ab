"""``orchestrator supervise`` as process 1 of a container: it restarts what is killed, reaps, and stops in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker.stack import docker, inspect
from tests.support.eventually import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_STATE = "/tmp/supervise"

#: Sends a message from within, and prints what becomes of it.
_SEND = """
from workers import orchestrator
from workers.auditors import Audit
outcome = orchestrator.send("auditor", Audit(path="/app/workers/app.py")).wait(timeout_s=30)
print(type(outcome).__name__)
"""

#: Prints the processes that have ended and that nobody has reaped.
_ZOMBIES = """
from pathlib import Path
stats = (path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc").glob("[0-9]*/stat"))
print(sum(state == "Z" for state in stats))
"""


class Container:
    """The image with ``supervise -A workers`` as its command, and a Redis in the same network namespace."""

    def __init__(self, image: str) -> None:
        self.redis = docker("run", "--detach", "redis:7").strip()
        eventually(lambda: self.ask_redis("ping") == "PONG", timeout_s=20)
        command = ("supervise", "-A", "workers", "--state-dir", _STATE)
        network = f"container:{self.redis}"
        self.id = docker(
            "run", "--detach", "--network", network, "--entrypoint", "orchestrator", image, *command
        ).strip()

    def run(self, *command: str) -> str:
        """Run a command in it."""
        return docker("exec", self.id, *command)

    def ask_redis(self, *arguments: str) -> Any:
        """A command to Redis."""
        return json.loads(docker("exec", self.redis, "redis-cli", "--json", *arguments))

    def children(self) -> dict[str, dict[str, Any]]:
        """The processes of the tree by path."""
        answer = json.loads(self.run("orchestrator", "tree", "--state-dir", _STATE, "--json"))
        return {row["path"]: row for row in answer["children"] if "pid" in row}

    def are_ready(self) -> bool:
        """Whether the tree has started, and all of it is ready."""
        if "all are ready" not in self.logs():
            return False
        return {row["state"] for row in self.children().values()} == {"ready"}

    def deaths(self) -> list[dict[str, str]]:
        """The recorded deaths, the first one first."""
        entries = self.ask_redis("xrange", "orc:deaths", "-", "+")
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]

    def logs(self) -> str:
        """What the tree has printed."""
        return docker("logs", "--tail", "200", self.id)

    def remove(self) -> None:
        """End both."""
        docker("rm", "--force", "--volumes", self.id, self.redis)


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    container = Container(image)
    yield container
    container.remove()


def test_as_process_1_it_restarts_what_is_killed_and_stops_in_order(container: Container) -> None:
    eventually(container.are_ready, timeout_s=90, describe=container.logs)
    assert container.run("sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").split()[2:4] == ["supervise", "-A"]
    before = container.children()
    assert {"manager", "beat", "worker.1"} <= before.keys()

    killed = [before[path]["pid"] for path in ("worker.1", "manager", "beat")]
    container.run("sh", "-c", f"kill -9 {' '.join(map(str, killed))}")
    eventually(lambda: len(container.deaths()) == 2, timeout_s=20, describe=container.logs)
    assert [death["reason"] for death in container.deaths()] == ["killed", "killed"]
    assert all(death["by"].startswith("supervisor@") for death in container.deaths())
    eventually(container.are_ready, timeout_s=60, describe=container.logs)
    after = container.children()
    assert {path for path, row in after.items() if row["pid"] != before[path]["pid"]} == {"worker.1", "manager", "beat"}
    assert container.run("python", "-c", _SEND).strip() == "Handled"
    container.run("orchestrator", "health")

    # What loses its parent becomes a child of process 1.
    container.run("sh", "-c", "(sleep 0 &) ; (sleep 0.1 &)")
    eventually(lambda: container.run("python", "-c", _ZOMBIES).strip() == "0", timeout_s=10)

    # Docker kills after this time: the exit code would be 137.
    docker("stop", "--time", "60", container.id)
    assert inspect(container.id, ".State.ExitCode") == 0
    assert container.ask_redis("zrange", "orc:leases", "0", "-1") == []
    stopped = container.deaths()[2:]
    assert {death["reason"] for death in stopped} == {"deployed"}
    # In reverse order: the manager, which was started first, has ended last.
    names = [death["incarnation"].partition("@")[0] for death in stopped]
    assert sorted(names[:-1]) == sorted(path for path in after if path.startswith("worker"))
    assert names[-1] == "manager"
