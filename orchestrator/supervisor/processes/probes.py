"""Whether a process that has started is ready. Nothing here waits: each look is short, and the loop decides when."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic
from typing import Any

from orchestrator.health import files
from orchestrator.health.judge import Exit, liveness
from orchestrator.supervisor.reading.definition import Probe, ProbeKind

#: Between two looks at a process that is not ready yet.
LOOK_EVERY_S = 0.02
_ASK_EVERY_S = 0.1
_RUN_EVERY_S = 0.5

#: Bytes of a Unix socket's path.
_LONGEST_ADDRESS = 107


class Answer(Enum):
    """The result of a look."""

    NO = "no"
    READY = "ready"
    #: It waits for Redis, which is no fault of its own.
    WAITS = "waits"


def interval_s(probe: Probe) -> float | None:
    """Seconds between two looks; ``None`` if the process says so itself, or is ready when it runs."""
    return {
        ProbeKind.HEALTH: LOOK_EVERY_S,
        ProbeKind.PING: _ASK_EVERY_S,
        ProbeKind.HTTP: _ASK_EVERY_S,
        ProbeKind.EXEC: _RUN_EVERY_S,
    }.get(probe.kind)


def health(pid: int, environment: Mapping[str, str]) -> Answer:
    """The state that a worker's health file shows of its main process, which was started with these variables."""
    vitals = None
    with contextlib.suppress(OSError, files.UntrustedDirectory):
        vitals = next(
            (found for folder in files.directories(environment) for found in files.of_process(folder, pid)), None
        )
    if vitals is None:
        return Answer.NO
    if vitals.get("incarnation") and vitals.get("fenced_s") is None and not vitals.get("away"):
        return Answer.READY
    return Answer.WAITS if liveness(vitals, monotonic())[0] is Exit.HEALTHY else Answer.NO


class Question:
    """A question to a port, and its answer: a PING, or a GET. Driven by the loop's events."""

    def __init__(self, probe: Probe) -> None:
        self._is_http = probe.kind is ProbeKind.HTTP
        request = f"GET {probe.path} HTTP/1.0\r\nHost: {probe.host}\r\n\r\n" if self._is_http else "PING\r\n"
        self._request = request.encode()
        self._reply = b""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((probe.host, probe.port))
        self.events = EVENT_WRITE

    def go_on(self) -> Answer | None:
        """Take the next step; ``None`` if it waits for something."""
        try:
            if self.events == EVENT_WRITE:
                if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return Answer.NO
                self.socket.send(self._request)
                self.events = EVENT_READ
                return None
            received = self.socket.recv(4096)
        except BlockingIOError:
            return None
        except OSError:
            return Answer.NO
        self._reply += received
        if received and b"\n" not in self._reply:
            return None
        return Answer.READY if self._is_yes() else Answer.NO

    def _is_yes(self) -> bool:
        if self._is_http:
            status = self._reply.split(b" ")[1:2]
            return bool(status) and b"200" <= status[0] < b"400"
        # A Redis that asks for a password answers, too.
        return self._reply.startswith((b"+PONG", b"-NOAUTH"))

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class NotifySocket:
    """``$NOTIFY_SOCKET`` of one process, as sd_notify knows it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / name
        self._path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.socket.bind(f"/proc/self/fd/{self._directory}/{name}")

    @property
    def address(self) -> str:
        """The address for a child process; a path too long for a socket goes by this process' open directory."""
        path = str(self._path)
        by_descriptor = f"/proc/{os.getpid()}/fd/{self._directory}/{self._path.name}"
        return path if len(os.fsencode(path)) <= _LONGEST_ADDRESS else by_descriptor

    def read(self) -> Answer:
        """The answer in the process' messages."""
        said = Answer.NO
        with contextlib.suppress(BlockingIOError):
            while True:
                words: list[Any] = self.socket.recv(4096).split(b"\n")
                if b"READY=1" in words:
                    said = Answer.READY
                elif said is Answer.NO and any(word.startswith(b"EXTEND_TIMEOUT_USEC=") for word in words):
                    said = Answer.WAITS
        return said

    def close(self) -> None:
        """Remove it."""
        self.socket.close()
        self._path.unlink(missing_ok=True)
        os.close(self._directory)
