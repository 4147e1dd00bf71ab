"""Guard process: runs one redis-server, and ends it when the process that asked for it ends.

`guard_link` starts this file as a script. It uses only the standard library, because importing the package would
take longer than the server's start.

Standard input and output are a socket to the owner. The guard reads commands, one word a line, and replies to each
with one line of JSON. When the owner closes the socket or dies, the guard ends the server, removes the directory that
it made, and exits. It also watches the owner's pid, because a forked child of the owner keeps the socket open.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

CONFIGURATION_FILE = "embedded-redis.conf"
LOG_FILE = "embedded-redis.log"

_GRACE_S = 3.0
_OWNER_POLL_S = 0.25
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Orders:
    """The guard's arguments. Without a directory it makes a temporary one, and removes it at the end."""

    owner_pid: int
    binary: str
    directory: str | None


@dataclass(frozen=True, slots=True)
class State:
    """The guard's reply to a command. `exit_code` is the last server's, if it has ended."""

    directory: str
    pid: int | None = None
    exit_code: int | None = None
    error: str | None = None


class ServerGuard:
    """The server process and its directory, and the commands that control them."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self._commands: dict[str, Callable[[], None]] = {
            "start": self._start,
            "state": lambda: None,
            "kill": self._kill,
            "halt": self.end_server,
            "pause": self._pause,
            "resume": self._resume,
        }

    def obey(self, command: str) -> State:
        """Execute one command and report the state after it."""
        error = None
        try:
            self._commands[command]()
        except OSError as failure:
            error = str(failure)
        server = self._server
        if server is None:
            return State(str(self._directory), error=error)
        exit_code = server.poll()
        return State(str(self._directory), None if exit_code is not None else server.pid, exit_code, error)

    def end_server(self) -> None:
        """End the server: SIGTERM, then SIGKILL; returns when it has ended."""
        server = self._server
        if server is None or server.poll() is not None:
            return
        server.terminate()
        server.send_signal(signal.SIGCONT)
        try:
            server.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _start(self) -> None:
        if self._server is not None and self._server.poll() is None:
            return
        with (self._directory / LOG_FILE).open("ab") as log:
            self._server = subprocess.Popen(
                [self._binary, str(self._directory / CONFIGURATION_FILE)],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Safe here, unlike in most programs: the guard has only one thread.
                preexec_fn=_die_with_guard(),
            )

    def _kill(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _pause(self) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            # WNOWAIT: the exit, if it is one, is left for Popen to collect.
            os.waitid(os.P_PID, self._server.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _resume(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)


def _die_with_guard() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    guard_pid = os.getpid()

    def in_server() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard_pid:
            os._exit(1)

    return in_server


def _commands_of(owner_pid: int, socket_fd: int) -> Iterator[str]:
    """Yield the owner's commands until it says "quit", closes the socket, or dies."""
    owner_fds = []
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            owner_fds.append(os.pidfd_open(owner_pid))
    pending = b""
    # A process keeps its parent until that dies, so this also proves that the pid above was not reused.
    while os.getppid() == owner_pid:
        readable, _, _ = select.select([socket_fd, *owner_fds], [], [], None if owner_fds else _OWNER_POLL_S)
        if any(fd in readable for fd in owner_fds):
            return
        if socket_fd not in readable:
            continue
        try:
            received = os.read(socket_fd, 4096)
        except ConnectionError:
            return
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            if line == b"quit":
                return
            yield line.decode()


def _exit_on_signal(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(orders: Orders) -> None:
    """Run the guard until its owner ends it or dies."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    directory = Path(orders.directory or tempfile.mkdtemp(prefix="orchestrator-redis-"))
    guard = ServerGuard(orders.binary, directory)
    try:
        for command in _commands_of(orders.owner_pid, sys.stdin.fileno()):
            answer = json.dumps(asdict(guard.obey(command))) + "\n"
            with contextlib.suppress(ConnectionError):
                os.write(sys.stdout.fileno(), answer.encode())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        guard.end_server()
        if orders.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Orders(**json.loads(sys.argv[1])))
