"""The stack of ``docker/compose.yaml``, as whoever operates it sees it: through the ``docker`` command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually

ROOT = Path(__file__).parent.parent.parent

_SERVICES = ("redis", "manager", "auditor", "beat", "flower")
_WORKERS = ("manager", "auditor")

#: A pipe in a container: whoever reads it waits until it is released.
_HELD = "/tmp/held.py"


def docker(*arguments: str, **environment: str) -> str:
    """Run ``docker …``; returns what it printed."""
    return run(["docker", *arguments], environment)


def engine_answers() -> bool:
    """Whether there is a Docker engine, and either form of Compose."""
    return shutil.which("docker") is not None and _succeeds("docker", "info") and compose_command() is not None


def compose_command() -> list[str] | None:
    if _succeeds("docker", "compose", "version"):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class Stack:
    """One project of Compose, apart from any other on this engine."""

    def __init__(self, project: str, image: str) -> None:
        compose = compose_command()
        assert compose is not None
        self._compose = [*compose, "--file", "docker/compose.yaml", "--project-name", project]
        # Flower on any free port: somebody may be at home on its own.
        self._environment = {"AGENTS_IMAGE": image, "FLOWER_PORT": "0"}
        self._redis = ""

    def compose(self, *arguments: str) -> str:
        """Run ``docker compose …``."""
        return run([*self._compose, *arguments], self._environment)

    def start_stopping(self) -> subprocess.Popen[bytes]:
        """Begin ``docker compose stop``."""
        return subprocess.Popen(
            [*self._compose, "stop"],
            env={**os.environ, **self._environment},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def up(self) -> None:
        """Start what is not running, wait until every worker has a lease, and forget who died before."""
        self.compose("up", "--detach", "--no-build")
        (self._redis,) = self.containers("redis")
        # One lease each: those whom the test before killed have been declared dead.
        hosts = sorted(container[:12] for container in self.containers(*_WORKERS))
        eventually(lambda: sorted(map(_host, self.leases())) == hosts, timeout_s=60, describe=self.logs)
        # A worker announces its agents just after it took out its lease; the mail of the last test is done.
        eventually(lambda: self.redis("hexists", "orc:agents", "auditor"), timeout_s=10, describe=self.logs)
        self.redis("del", "orc:deaths")

    def down(self) -> None:
        """Remove containers, network and volume."""
        self.compose("down", "--volumes", "--timeout", "10")

    def containers(self, *services: str) -> list[str]:
        """Ids of the running containers of these services, of all if none is named."""
        return self.compose("ps", "--quiet", *(services or _SERVICES)).split()

    def logs(self) -> str:
        """The last lines of everything."""
        return self.compose("logs", "--no-color", "--tail", "30")

    def redis(self, *arguments: str) -> Any:
        """A command to Redis; lists and maps come as such."""
        return json.loads(docker("exec", self._redis, "redis-cli", "--json", *arguments))

    def now_ms(self) -> float:
        """Redis' clock."""
        seconds, microseconds = self.redis("time")
        return int(seconds) * 1000 + int(microseconds) / 1000

    def leases(self) -> list[str]:
        """The living incarnations."""
        return list(self.redis("zrange", "orc:leases", "0", "-1"))

    def next_deaths(self, timeout_s: int = 20) -> list[tuple[str, dict[str, str]]]:
        """Wait for the first incarnation to be declared dead; all of them, with the moment's stream id."""
        found = self.redis("xread", "block", str(timeout_s * 1000), "streams", "orc:deaths", "0")
        return self.deaths() if found else []

    def deaths(self) -> list[tuple[str, dict[str, str]]]:
        """The incarnations that were declared dead."""
        return [
            (entry, dict(zip(fields[::2], fields[1::2], strict=True)))
            for entry, fields in self.redis("xrange", "orc:deaths", "-", "+")
        ]

    def running(self, container: str) -> int:
        """How many messages are being executed in a container."""
        lease = next((lease for lease in self.leases() if _host(lease) == container[:12]), None)
        return 0 if lease is None else int(self.redis("hget", f"orc:incarnation:{lease}", "running") or 0)

    def count(self, counter: str) -> int:
        """A counter of the auditor's ledger."""
        return int(self.redis("hget", "orc:ledger:auditor", counter) or 0)

    def waiting(self) -> int:
        """Messages in the auditor's mailbox that nobody holds."""
        total = 0
        for stream in self.redis("keys", "orc:q:*:auditor"):
            total += int(self.redis("xlen", stream)) - int(self.redis("xpending", stream, "workers")[0])
        return total

    def hold_audits(self, count: int) -> None:
        """Send audits that take until :meth:`release`, wherever they run."""
        for container in self.containers("auditor"):
            docker("exec", container, "sh", "-c", f"rm -f {_HELD} && mkfifo {_HELD}")
        (manager,) = self.containers("manager")
        program = (
            "from workers import orchestrator\n"
            "from workers.auditors import Audit\n"
            f"for _ in range({count}): orchestrator.send('auditor', Audit(path='{_HELD}'))\n"
        )
        docker("exec", manager, "python", "-c", program)

    def release(self, container: str) -> None:
        """Let a container's audits go on, the waiting ones and those to come."""
        docker(
            "exec",
            container,
            "bash",
            "-c",
            f"mv {_HELD} /tmp/pipe && echo 'x = 1' > {_HELD} && exec 3<>/tmp/pipe",
        )


def inspect(container: str, template: str) -> Any:
    """A part of ``docker inspect``."""
    return json.loads(docker("inspect", "--format", f"{{{{json {template}}}}}", container))


def _host(lease: str) -> str:
    return lease.split("@", 1)[1].split(":", 1)[0]
