"""A proxy before Redis that can make chosen connections half-open: they look alive, and nothing comes any more."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class HalfOpen:
    """Forwards to a Redis on loopback until :meth:`freeze`."""

    def __init__(self, redis_url: str) -> None:
        parts = urlsplit(redis_url)
        self._to = parts.port
        login = f":{parts.password}@" if parts.password else ""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://{login}127.0.0.1:{self._server.getsockname()[1]}/0"
        self._readers: set[socket.socket] = set()
        self._frozen: set[socket.socket] = set()
        self._open: list[socket.socket] = []

    def freeze_readers(self) -> int:
        """Let every connection on which a reader has slept hear nothing more; returns how many there are."""
        self._frozen |= self._readers
        return len(self._frozen)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                redis = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, redis]
                for source, target in ((client, redis), (redis, client)):
                    threading.Thread(target=self._forward, args=(client, source, target), daemon=True).start()

    def _forward(self, client: socket.socket, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source is client and b"XREADGROUP" in data:
                    self._readers.add(client)
                if client not in self._frozen:
                    target.sendall(data)
        if client not in self._frozen:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for end in (self._server, *self._open):
            # Closing alone would leave threads in `recv` on a number that the next connection may be given.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
