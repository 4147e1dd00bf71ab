"""Two Redis servers that one broker URL names, the second a replica until the first is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.ports import LOOPBACK
from tests.support.replication import wait_until_replicated

PASSWORD = "of both"

_AT_ONCE = {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0", "masterauth": f'"{PASSWORD}"'}


@dataclass(frozen=True)
class TwoServers:
    """The first of the URLs, and the second."""

    first: EmbeddedServer
    second: EmbeddedServer

    @property
    def url(self) -> str:
        """The broker URL that names both."""
        return f"{self.first.url};{self.second.url}"

    def promote_the_second(self) -> None:
        """Make the replica a primary, as an operator does."""
        with redis.Redis.from_url(self.second.url) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def demote_the_first(self) -> None:
        """Make the first a replica of the second."""
        with redis.Redis.from_url(self.first.url) as client:
            client.execute_command("REPLICAOF", LOOPBACK, self.second.port)

    def fail_over(self) -> None:
        """Lose the first, and make the second the primary."""
        self.settled()
        self.first.kill()
        self.promote_the_second()

    def settled(self) -> None:
        """Wait until the second has all that the first has."""
        wait_until_replicated(self.first.url)


@contextlib.contextmanager
def replicated() -> Iterator[TwoServers]:
    """A primary and its replica."""
    with (
        EmbeddedServer(config=_AT_ONCE, password=PASSWORD) as first,
        EmbeddedServer(config={**_AT_ONCE, "replicaof": f"{LOOPBACK} {first.port}"}, password=PASSWORD) as second,
    ):
        servers = TwoServers(first, second)
        servers.settled()
        yield servers


@contextlib.contextmanager
def independent() -> Iterator[TwoServers]:
    """Two primaries that know nothing of each other."""
    with EmbeddedServer() as first, EmbeddedServer() as second:
        yield TwoServers(first, second)
