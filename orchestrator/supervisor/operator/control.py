"""The control socket: one line of JSON asks, one line answers. Only the supervisor's user, and root, may ask."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from functools import partial

from orchestrator.supervisor.loop import Loop
from orchestrator.supervisor.operator.operations import Operations
from orchestrator.supervisor.state_directory import SOCKET, StateDirectory, short_path, user_of_peer

#: Longest request, and most clients at a time; one more, and the first one is left.
_MAX_REQUEST = 65536
_MAX_CLIENTS = 64


class Control:
    """The supervisor's end of the control socket."""

    def __init__(self, state: StateDirectory, loop: Loop, operations: Operations) -> None:
        self._loop = loop
        self._operations = operations
        self._clients: dict[socket.socket, bytes] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.setblocking(False)
        # The lock is ours, so a socket that lies there is one that was left.
        (state.path / SOCKET).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server.bind(short_path(state.descriptor, SOCKET))
        finally:
            os.umask(before)
        self._server.listen(16)
        loop.on(self._server, self._accept)

    def _accept(self) -> None:
        with suppress(OSError):
            client, _ = self._server.accept()
            client.setblocking(False)
            if not _is_trusted(client):
                client.close()
                return
            if len(self._clients) >= _MAX_CLIENTS:
                # Commands that hang must not keep an operator out.
                self._leave(next(iter(self._clients)))
            self._clients[client] = b""
            self._loop.on(client, partial(self._serve, client))

    def _serve(self, client: socket.socket) -> None:
        try:
            self._read(client)
        except Exception:
            self._leave(client)
            raise

    def _read(self, client: socket.socket) -> None:
        try:
            received = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        content = self._clients[client] + received
        if not received or len(content) > _MAX_REQUEST:
            self._leave(client)
            return
        line, found, rest = content.partition(b"\n")
        self._clients[client] = rest if found else content
        if found:
            self._answer(client, line)

    def _answer(self, client: socket.socket, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        answer = json.dumps(self._operations.run(request)).encode() + b"\n"
        self._write(client, answer)

    def _write(self, client: socket.socket, answer: bytes) -> None:
        try:
            sent = client.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._leave(client)
            return
        if sent == len(answer):
            self._loop.on(client, partial(self._serve, client))
            return
        from selectors import EVENT_WRITE

        self._loop.on(client, partial(self._write, client, answer[sent:]), EVENT_WRITE)

    def _leave(self, client: socket.socket) -> None:
        self._loop.off(client)
        self._clients.pop(client, None)
        client.close()

    def close(self) -> None:
        """Close it, and the clients' connections."""
        for client in tuple(self._clients):
            self._leave(client)
        self._loop.off(self._server)
        self._server.close()


def _is_trusted(client: socket.socket) -> bool:
    return user_of_peer(client) in (0, os.getuid())
