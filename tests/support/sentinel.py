"""A primary, a replica and a Redis Sentinel that watches over them, all on loopback."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.exceptions import RedisError

from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.binary import find_server_binary
from orchestrator.embedded.ports import LOOPBACK, free_port
from tests.support.eventually import eventually
from tests.support.replication import wait_until_replicated

MASTER = "main"

PASSWORD = "of both"

_AT_ONCE = {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0", "masterauth": f'"{PASSWORD}"'}


@dataclass(frozen=True)
class Watched:
    """The two servers, and where the Sentinel listens."""

    primary: EmbeddedServer
    replica: EmbeddedServer
    port: int

    @property
    def url(self) -> str:
        """The broker URL."""
        return f"sentinel://:{quote(PASSWORD)}@{LOOPBACK}:{self.port}/0"

    def primary_port(self) -> int:
        """Which of the two the Sentinel says is the primary."""
        with redis.Redis(port=self.port) as sentinel:
            answer: Any = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            return int(answer[1])

    def fail_over(self) -> None:
        """Kill the primary once the replica has all that it has, and wait until that is the primary.

        From here on, Sentinel gives a primary up after half a second. Of a failover that it has to give up, it begins
        another after 6 s; and one that has not had its turn for 2 s does nothing for 30 s ("tilt").
        """
        wait_until_replicated(self.primary.url)
        self.primary.kill()
        with redis.Redis(port=self.port) as sentinel:
            sentinel.sentinel_set(MASTER, "down-after-milliseconds", 500)
        eventually(lambda: self.primary_port() == self.replica.port, 60)


@contextlib.contextmanager
def watched_pair() -> Iterator[Watched]:
    """Both servers in step, and the Sentinel knowing them.

    Until :meth:`Watched.fail_over` it gives no primary up that a busy machine keeps waiting: what the replica does not
    have yet would be lost with it.
    """
    with (
        EmbeddedServer(config=_AT_ONCE, password=PASSWORD) as primary,
        EmbeddedServer(config={**_AT_ONCE, "replicaof": f"{LOOPBACK} {primary.port}"}, password=PASSWORD) as replica,
        tempfile.TemporaryDirectory(prefix="sentinel-") as directory,
    ):
        # Sentinel asks at once, and then every 10 s.
        wait_until_replicated(primary.url)
        port = free_port()
        configuration = Path(directory) / "sentinel.conf"
        configuration.write_text(
            f"bind {LOOPBACK}\nport {port}\ndir {directory}\n"
            f"sentinel monitor {MASTER} {LOOPBACK} {primary.port} 1\n"
            f'sentinel auth-pass {MASTER} "{PASSWORD}"\n'
            f"sentinel down-after-milliseconds {MASTER} 60000\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        process = subprocess.Popen(
            [find_server_binary(), configuration, "--sentinel"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        try:
            with redis.Redis(port=port) as sentinel:
                eventually(lambda: _sees_replica(sentinel), 30)
            yield Watched(primary, replica, port)
        finally:
            process.kill()
            process.wait(timeout=10)


def _sees_replica(sentinel: Any) -> bool:
    with contextlib.suppress(RedisError):
        replicas = sentinel.sentinel_slaves(MASTER)
        return bool(replicas) and replicas[0].get("master-link-status") == "ok"
    return False
