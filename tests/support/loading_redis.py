"""A Redis that loads its data for as long as a test wants."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator

import redis

from orchestrator.embedded import EmbeddedServer
from orchestrator.embedded.binary import find_server_binary
from orchestrator.embedded.ports import LOOPBACK

#: While it loads, Redis answers between two pieces of 2 MB only, hence the size.
_VALUE = b"x" * 2_200_000

_KEYS = 30

_PASSWORD = "loading"

#: For each key: longer in all than any test takes, and each answer comes within this time.
_DELAY_US = 2_000_000


class LoadingRedis:
    """Refuses commands because it loads, until :meth:`finish`."""

    def __init__(self, server: EmbeddedServer, directory: str) -> None:
        self._server = server
        where = ["--bind", LOOPBACK, "--port", str(server.port), "--dir", directory, "--requirepass", _PASSWORD]
        self._loading = subprocess.Popen(
            [find_server_binary(), *where, "--save", "", "--key-load-delay", str(_DELAY_US)],
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    def finish(self) -> None:
        """Have it load at once, by another start."""
        self.kill()
        self._server.start()

    def kill(self) -> None:
        """End the server that loads."""
        self._loading.kill()
        self._loading.wait(timeout=10)


@contextlib.contextmanager
def loading_redis() -> Iterator[LoadingRedis]:
    """A Redis with some data, which it has just begun to load."""
    with tempfile.TemporaryDirectory(prefix="loading-") as directory:
        server = EmbeddedServer(directory=directory, password=_PASSWORD, config={"rdbcompression": "no"})
        with server, redis.Redis.from_url(server.url) as client:
            for number in range(_KEYS):
                client.set(f"tests:{number}", _VALUE)
            client.save()
        loading = LoadingRedis(server, directory)
        try:
            yield loading
        finally:
            loading.kill()
            server.stop()
