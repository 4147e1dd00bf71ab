"""Processes that run Python programs without paying for their imports: see ``process_server``."""

from __future__ import annotations

import atexit
import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_PR_SET_CHILD_SUBREAPER = 36

#: What an interpreter or an import reads, as the server has at its own start; of these the server follows a few.
_READ_AT_START = ("PYTHON", "CELERY_CUSTOM_WORKER_POOL", "AUTOSCALE_KEEPALIVE")
_SAME = ("PYTHONPATH", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER")


class _Server:
    """The server of this process, started when it is first needed, ended with this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.process_server", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control = ours
        self.owner_pid = os.getpid()
        self._one_at_a_time = threading.Lock()
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        atexit.register(self._close)

    def start(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        body = json.dumps(request).encode()
        with self._one_at_a_time:
            # Only for as long as it takes: what others leave behind is not ours to wait for.
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._control, [len(body).to_bytes(8, "big")], files)
                self._control.sendall(body)
                answer = self._control.recv(8, socket.MSG_WAITALL)
            finally:
                self._prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise RuntimeError("the process server has ended")
        return int.from_bytes(answer, "big")

    def _close(self) -> None:
        if os.getpid() == self.owner_pid:
            self._control.close()
            self._process.wait(timeout=10)


_server: _Server | None = None
_starting = threading.Lock()


def _server_of_this_process() -> _Server:
    global _server
    with _starting:
        if _server is None or _server.owner_pid != os.getpid():
            _server = _Server()
        return _server


class ForkedProcess(subprocess.Popen[Any]):
    """A ``Popen`` of ``[sys.executable, SCRIPT | "-m" MODULE, …]``; a real start wherever a forked one would differ."""

    def _execute_child(self, *arguments: Any) -> None:
        real = getattr(subprocess.Popen, "_execute_child")  # noqa: B009
        asked = inspect.signature(real).bind(self, *arguments).arguments
        if not _may_fork(asked):
            real(self, *arguments)
            return
        try:
            given = zip((asked["p2cread"], asked["c2pwrite"], asked["errwrite"]), (0, 1, 2), strict=True)
            files = [own if file == -1 else file for file, own in given]
            request = {
                "arguments": [os.fspath(part) for part in asked["args"][1:]],
                "environment": dict(os.environ if asked["env"] is None else asked["env"]),
                "directory": str(Path(asked["cwd"] or ".").absolute()),
                "new_session": bool(asked["start_new_session"]),
            }
            self.pid = _server_of_this_process().start(request, files)
            self._child_created = True
        finally:
            names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(asked[name] for name in names))  # type: ignore[attr-defined]


def _may_fork(asked: Mapping[str, Any]) -> bool:
    arguments, environment = asked["args"], asked["env"] or os.environ
    if sys.platform != "linux" or isinstance(arguments, str) or asked["preexec_fn"] or asked["pass_fds"]:
        return False
    if arguments[0] != sys.executable or (arguments[1][:1] == "-" and arguments[1] != "-m"):
        return False
    others = {name for name in environment if name.startswith(_READ_AT_START)} - set(_SAME)
    # These patch the standard library before anything else is imported.
    return not others and not {"gevent", "eventlet"} & set(arguments)


def run(
    arguments: Sequence[str], *, timeout: float = 60, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` with its output captured as text."""
    options = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        **options,
    }
    with ForkedProcess(arguments, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(list(arguments), process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done
