"""The owner's connection to its guard process."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from orchestrator.embedded import guard
from orchestrator.embedded.port_taken import EmbeddedServerError

_ANSWER_TIMEOUT_S = 10.0


class GuardLink:
    """A running guard process. Safe to use from several threads of the process that made it, and only there.

    Raises:
        EmbeddedServerError: the guard could not be started, or has died and taken its server with it.
    """

    def __init__(self, binary: Path, directory: Path | None) -> None:
        self.owner_pid = os.getpid()
        self._lock = threading.Lock()
        orders = guard.Orders(self.owner_pid, str(binary), None if directory is None else str(directory))
        self._socket, guards_end = socket.socketpair()
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._answers = self._socket.makefile("rb")
        with guards_end:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", guard.__file__, json.dumps(asdict(orders))],
                    stdin=guards_end.fileno(),
                    stdout=guards_end.fileno(),
                    cwd="/",
                    # Ctrl-C at a terminal must reach the owner first, and the server through it.
                    start_new_session=True,
                )
            except OSError as error:
                self.drop()
                raise EmbeddedServerError(f"cannot start the embedded Redis server's guard: {error}") from error
        try:
            self.directory = Path(self.ask("state").directory)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def ask(self, command: str) -> guard.State:
        """Send the guard a command; returns the state after it."""
        with self._lock:
            try:
                self._socket.sendall(command.encode() + b"\n")
                answer = self._answers.readline()
            except (OSError, ValueError) as error:
                raise self._lost(str(error)) from error
            if not answer:
                raise self._lost("it closed its end")
        state = guard.State(**json.loads(answer))
        if state.error is not None:
            raise EmbeddedServerError(f"{command} of the embedded Redis server failed: {state.error}")
        return state

    def close(self) -> None:
        """End the server and the guard, and remove a temporary directory; returns when they have ended."""
        with self._lock:
            with contextlib.suppress(OSError):
                # Closing the socket is not enough: a forked child may hold a copy of it.
                self._socket.sendall(b"quit\n")
            try:
                self._process.wait(_ANSWER_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self.drop()

    def drop(self) -> None:
        """Close this process's copy of the socket, and leave the guard to the process that made it."""
        self._answers.close()
        self._socket.close()

    def _lost(self, how: str) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"the embedded Redis server's guard (pid {self.pid}) is gone or does not answer: {how}"
        )
