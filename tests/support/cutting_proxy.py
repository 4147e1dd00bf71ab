"""A proxy before Redis that loses the network at a chosen moment: after a number of writes of its clients."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from orchestrator.embedded import ports
from orchestrator.embedded.ports import LOOPBACK

#: How it looks to the clients: connections are reset and refused, or stay open and nothing comes on them.
Outage = Literal["refused", "silent"]

#: Close by RST, and at once.
_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Forwards to a Redis on loopback, but for the time of an outage."""

    def __init__(self, redis_url: str) -> None:
        parts = urlsplit(redis_url)
        self._target = (LOOPBACK, parts.port or 0)
        self._lock = threading.Lock()
        # Not one that the kernel chooses: in an outage, it could give that to another connection, or to a client that
        # tries to connect, which would be connected to itself.
        self._port = ports.free_port()
        self._listener = socket.create_server((LOOPBACK, self._port))
        login = f":{parts.password}@" if parts.password else ""
        self.url = f"redis://{login}{LOOPBACK}:{self._port}{parts.path}"
        self._open: list[socket.socket] = []
        self._next: Outage = "refused"
        #: Writes until the next outage; ``None``: there is none.
        self._writes_left: int | None = None
        self._cut = threading.Event()
        self._age = 0
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut_after(self, writes: int, outage: Outage = "refused") -> None:
        """Have an outage begin after this many writes of clients: the next one does not arrive.

        During an outage no writes are counted, so the next one can be announced before it ends.
        """
        with self._lock:
            self._writes_left, self._next = writes, outage

    @property
    def is_cut(self) -> bool:
        """Whether there is an outage."""
        return self._cut.is_set()

    def heal(self) -> None:
        """End the outage, if there is one. Connections from before stay dead."""
        with self._lock:
            if not self.is_cut:
                return
            self._age += 1
            if self._listener.fileno() < 0:
                self._listener = socket.create_server((LOOPBACK, self._port))
                self._listen()
            self._cut.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(self._target)
            with self._lock:
                self._open += [client, server]
                age = self._age
                if self._listener.fileno() < 0:
                    # Accepted just before the outage.
                    self._close_all()
                    return
            threading.Thread(target=self._pump, args=(server, client, age, False), daemon=True).start()
            self._pump(client, server, age, True)

    def _pump(self, source: socket.socket, sink: socket.socket, age: int, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_client:
                    self._count()
                if age == self._age and not self.is_cut:
                    sink.sendall(data)
        if age == self._age and not self.is_cut:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _count(self) -> None:
        with self._lock:
            if self.is_cut or self._writes_left is None:
                return
            self._writes_left -= 1
            if self._writes_left >= 0:
                return
            self._writes_left = None
            self._cut.set()
            if self._next == "refused":
                # Closing alone would leave the port open for as long as a thread waits in accept().
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._close_all()

    def _close_all(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            if self._listener.fileno() >= 0:
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
            self._close_all()
