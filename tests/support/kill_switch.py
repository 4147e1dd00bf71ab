"""SIGKILLs a worker at an exact place in its work: before or after a script that it runs, or around a handler.

A worker whose app has called :func:`install` looks, wherever it gets, into the file that ``TEST_KILL_SWITCH`` names. A
test writes the place there with :meth:`KillSwitch.arm`. Of several workers, the first one that gets there dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from orchestrator.transport.redis.scripts import Script, script_of
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess, logs_of

VARIABLE = "TEST_KILL_SWITCH"

#: What is killed: the worker's main process, that and all that it has started, or the process that gets there alone.
Killed = Literal["worker", "group", "process"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a worker's work, where it deals with what has all of the ``texts`` in it."""

    where: str
    texts: tuple[str, ...] = ()
    kills: Killed = "worker"
    #: The name of the script, if it is one.
    script: str = ""

    def source(self) -> bytes:
        """The script's text. Redis is to know it: the first try of one that it does not know does nothing."""
        return _script(self.script).source


_PACKAGES = {
    "workflows": "orchestrator.workflows",
    "coordination": "orchestrator.coordination",
    "ballots": "orchestrator.coordination.ballots",
    "barriers": "orchestrator.coordination.barriers",
}


def _script(named: str) -> Script:
    """The script ``SCRIPT``, one of the transport's, or ``PACKAGE/SCRIPT``."""
    package, _, name = named.rpartition("/")
    return script_of(_PACKAGES.get(package, "orchestrator.transport.redis"), name)


def before(script: str, *texts: str, kills: Killed = "worker") -> Place:
    """Where a script would be sent to Redis that has these texts among its keys and arguments."""
    return Place(f"before {_script(script).sha}", texts, kills, script)


def after(script: str, *texts: str, kills: Killed = "worker") -> Place:
    """Where Redis has run that script, and nothing has read its reply."""
    return Place(f"after {_script(script).sha}", texts, kills, script)


# -- in a test


class KillSwitch:
    """The file by which a test says where a worker is to die."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kill-switch-"))
        self._file = self._folder / "place"

    @property
    def environment(self) -> dict[str, str]:
        """Of the workers."""
        return {VARIABLE: str(self._file)}

    def arm(self, place: Place) -> None:
        """Have the first worker that gets there killed."""
        self.disarm()
        draft = self._folder / "draft"
        draft.write_text(json.dumps(asdict(place)))
        draft.rename(self._file)

    def disarm(self) -> None:
        """Have nobody killed."""
        for file in self._folder.iterdir():
            file.unlink()

    def _reached(self) -> list[int]:
        return [int(file.suffix[1:]) for file in self._folder.glob("place.*")]

    def wait_until_reached(self, workers: Sequence[WorkerProcess]) -> int:
        """Wait until a process is killed there; returns its process id."""
        (pid,) = eventually(self._reached, 30, logs_of(*workers))
        return pid

    def wait_for_death(self, workers: Sequence[WorkerProcess]) -> WorkerProcess:
        """Wait until one of the workers is killed there, and make sure that this is how it ended."""
        pid = self.wait_until_reached(workers)
        (killed,) = [worker for worker in workers if worker.pid == pid]
        code = killed.wait(10)
        assert code == -signal.SIGKILL, f"{killed.name} ended with {code}:\n{killed.log()}"
        return killed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self._folder)


# -- in a worker

_main = 0


def install() -> None:
    """In a worker that a test may kill so: look at each place whether it is the one."""
    global _main
    if VARIABLE not in os.environ:
        return
    import redis.connection

    from orchestrator.transport.delivery import Delivery
    from orchestrator.worker.execution import execute

    _main = os.getpid()
    connect: Any = redis.connection.Connection._connect
    deliver: Any = Delivery._deliver
    call: Any = execute._call

    def watched(self: Any) -> Any:
        sock = connect(self)
        sock.__class__ = _WatchedSocket
        return sock

    def claimed(self: Any, claim: Any, raw: bytes) -> None:
        reach("claimed", raw.decode(errors="replace"))
        deliver(self, claim, raw)

    def around(task: Any, run: Any, args: Any, kwargs: Any, request: Any, *rest: Any) -> Any:
        what = f"{task.name} {request.id} {args} {kwargs}"
        reach("before handler", what)
        result = call(task, run, args, kwargs, request, *rest)
        reach("after handler", what)
        return result

    redis.connection.Connection._connect = watched  # type: ignore[method-assign]
    Delivery._deliver = claimed  # type: ignore[method-assign]
    vars(execute)["_call"] = around


def reach(where: str, what: str) -> None:
    """Die here, if this is the place."""
    place = _armed()
    if place is not None and place["where"] == where and all(text in what for text in place["texts"]) and _is_first():
        _die(place)


def _armed() -> Any:
    try:
        return json.loads(Path(os.environ[VARIABLE]).read_text())
    except (FileNotFoundError, KeyError):
        return None


def _is_first() -> bool:
    file = os.environ[VARIABLE]
    try:
        Path(file).rename(f"{file}.{os.getpid()}")
    except FileNotFoundError:
        return False
    return True


def _die(place: Any) -> None:
    if place["kills"] == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid() if place["kills"] == "process" else _main, signal.SIGKILL)
    # Of a pool's process: the kernel ends it with its worker.
    threading.Event().wait()


class _WatchedSocket(socket.socket):
    """A connection to Redis."""

    __slots__ = ()

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        place = _armed()
        if place is not None:
            when, _, sha = place["where"].partition(" ")
            marks = [mark.encode() for mark in (sha, *place["texts"])]
            if when in ("before", "after") and all(mark in bytes(data) for mark in marks):
                self._look_at(bytes(data), when, marks, place)
        super().sendall(data, flags)

    def _look_at(self, data: bytes, when: str, marks: list[bytes], place: Any) -> None:
        at = 0
        for command in _commands(data):
            if all(mark in command for mark in marks) and _is_first():
                # Redis does all that it has got before it closes the connection.
                super().sendall(data[: at + len(command) * (when == "after")])
                self.shutdown(socket.SHUT_WR)
                self.settimeout(10)
                replies = b""
                with contextlib.suppress(ConnectionResetError):
                    while some := self.recv(65536):
                        replies += some
                if b"-NOSCRIPT" in replies:
                    os._exit(3)
                _die(place)
            at += len(command)


def _commands(data: bytes) -> Iterator[bytes]:
    """Take packed commands apart."""
    at = 0
    while at < len(data):
        begin, end = at, data.index(b"\r\n", at)
        parts, at = int(data[at + 1 : end]), end + 2
        for _ in range(parts):
            end = data.index(b"\r\n", at)
            at = end + 4 + int(data[at + 1 : end])
        yield data[begin:at]
