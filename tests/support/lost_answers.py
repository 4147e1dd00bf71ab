"""A proxy before Redis that loses what it is told to lose: a command, or the answer to one that Redis has done."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class LostAnswers:
    """Forwards to a Redis on loopback, and closes a connection instead of losing something silently."""

    def __init__(self, redis_url: str) -> None:
        parts = urlsplit(redis_url)
        self._to = parts.port
        login = f":{parts.password}@" if parts.password else ""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://{login}127.0.0.1:{self._server.getsockname()[1]}/0"
        self._left = 0
        self._mark = b""
        self._done_first = True
        self._meanwhile: Callable[[], object] = lambda: None
        self._open: list[socket.socket] = []

    def lose(self, times: int, mark: str, *, done_first: bool, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Lose the next so many commands with ``mark`` in them; if ``done_first``, only their answers.

        ``meanwhile`` is what another does before the sender of such a command, which is done, sees that it is cut off.
        """
        self._mark, self._done_first, self._meanwhile, self._left = mark.encode(), done_first, meanwhile, times

    @property
    def left(self) -> int:
        """How many are still to be lost."""
        return self._left

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        redis = socket.create_connection(("127.0.0.1", self._to))
        self._open += [client, redis]
        lost = threading.Event()
        threading.Thread(target=self._answers, args=(redis, client, lost), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._left and self._mark in data:
                    self._left -= 1
                    lost.set()
                    if not self._done_first:
                        # What was sent before it arrives; of half a command nothing is done.
                        redis.sendall(data[: data.index(self._mark)])
                        break
                redis.sendall(data)
        _shut(client, redis)

    def _answers(self, redis: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := redis.recv(65536)) and not lost.is_set():
                client.sendall(data)
            if data:
                self._meanwhile()
        _shut(client, redis)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # Closing alone would leave threads in `recv` on a number that the next connection may be given.
        _shut(self._server, *self._open)
        for end in (self._server, *self._open):
            end.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
