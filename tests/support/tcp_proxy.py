"""A network between workers and Redis that tests can cut, and that can speak TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from urllib.parse import urlsplit

from orchestrator.embedded.ports import LOOPBACK


class TcpProxy:
    """Forwards connections from a port of its own to a Redis on loopback.

    With ``tls``, clients must speak TLS to it. While it is cut, it accepts connections and swallows every byte, and
    says nothing of it, as a network does that drops packets. Connections from before or during a cut stay dead
    when it is healed.
    """

    def __init__(self, redis_url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(redis_url)
        self._target = (LOOPBACK, parts.port or 0)
        self._login = f":{parts.password}@" if parts.password else ""
        self._tls = tls
        self._listener = socket.create_server((LOOPBACK, 0))
        self._cut = threading.Event()
        self._age = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Database 0 of the Redis behind it."""
        return f"{'redis' if self._tls is None else 'rediss'}://{self._login}{LOOPBACK}:{self.port}/0"

    def move(self, port: int) -> None:
        """Forward new connections to another server; those that are open stay as they are."""
        self._target = (LOOPBACK, port)

    def cut(self) -> None:
        """Swallow everything from now on."""
        self._cut.set()
        self._age += 1

    def heal(self) -> None:
        """Forward what is connected from now on."""
        self._age += 1
        self._cut.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client, self._age), daemon=True).start()

    def _connect(self, client: socket.socket, age: int) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            pair = (client, server), (server, client)
            for source, sink in pair:
                threading.Thread(target=self._pump, args=(source, sink, age), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, age: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if age == self._age and not self._cut.is_set():
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
