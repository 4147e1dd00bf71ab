"""Forks Python programs from a process that has imported what they need: nine tenths of a worker's start are imports.

``python -m chaos.process_server FD`` is the server. Each request on the socket FD is a program (a script, or
``-m`` with a module), its environment and its three standard files. The program is a process as any other: it can be
signalled, killed and waited for by the process at the socket's other end, which becomes its parent, as a *subreaper*.
``forked_process`` is that end.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import socket
import sys
import tempfile
import time
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a worker has imported when it is ready; the command line's modules come with ``celery.bin.celery``.
IMPORTED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.beat", "celery.fixups.django", "celery.loaders.app"),
    *("celery.concurrency.solo", "celery.concurrency.thread", "celery.worker.autoscale", "celery.worker.components"),
    *("celery.worker.consumer", "celery.worker.strategy", "celery.app.control", "celery.app.events", "celery.app.log"),
    *("celery.worker.consumer.delayed_delivery", "orchestrator.transport.celery.scheduled"),
    *("orchestrator.app", "orchestrator.transport.kombu_lists"),
)

#: Packages of which it has imported nearly all.
PACKAGES = (
    "agents",
    "coordination",
    "maintenance",
    "schedules",
    "sending",
    "timeouts",
    "wiring",
    "worker",
    "workflows",
)

#: Where ``PYTHONPATH``'s folders were found when this interpreter began.
_FIRST_PATH = list(sys.path)


@dataclass(frozen=True)
class Program:
    """What is to run."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    new_session: bool
    files: list[int]


def serve(control: socket.socket) -> Program | None:
    """Fork a process for each request: returns in that process with its program, or without one at the end."""
    while True:
        head, files, _, _ = socket.recv_fds(control, 8, 3)
        if not head:
            return None
        size = int.from_bytes(head, "big")
        body = bytearray()
        while len(body) < size:
            body += control.recv(size - len(body))
        program = Program(files=files, **json.loads(body))
        pid = _fork(program.new_session)
        if pid == 0:
            control.close()
            return program
        for file in files:
            os.close(file)
        control.sendall(pid.to_bytes(8, "big"))


def _fork(new_session: bool) -> int:
    """Fork an orphan: 0 in it, once it has its new parent, else its process id."""
    pid_read, pid_write = os.pipe()
    go_read, go_write = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)
        if new_session:
            # Before anybody knows it, so that its group can be killed from the first.
            os.setsid()
        os.write(pid_write, os.getpid().to_bytes(8, "big"))
        for file in (pid_read, pid_write, go_write):
            os.close(file)
        if not os.read(go_read, 1):
            os._exit(1)
        os.close(go_read)
        return 0
    # When it has ended, the orphan has been given its parent.
    os.waitpid(between, 0)
    pid = int.from_bytes(os.read(pid_read, 8), "big")
    os.write(go_write, b".")
    for file in (pid_read, pid_write, go_read, go_write):
        os.close(file)
    return pid


def become(program: Program) -> None:
    """Run the program in this process, as the interpreter would."""
    for number, file in enumerate(program.files):
        os.dup2(file, number)
    for file in program.files:
        if file > 2:
            os.close(file)
    os.chdir(program.directory)
    os.environ.clear()
    os.environ.update(program.environment)
    time.tzset()
    tempfile.tempdir = None
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    _open_streams()
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable(2)
    gc.enable()
    own = os.environ.get("PYTHONPATH", "")
    path = [entry for entry in own.split(os.pathsep) if entry] + [e for e in _FIRST_PATH if e not in _FOLDERS]
    sys.orig_argv = [sys.executable, *program.arguments]
    if program.arguments[0] == "-m":
        _, name, *rest = program.arguments
        sys.path[:] = [program.directory, *path]
        _run_module(name, rest)
    else:
        script, *rest = program.arguments
        sys.path[:] = [str(Path(script).resolve().parent), *path]
        sys.argv = [script, *rest]
        _run(compile(Path(script).read_bytes(), script, "exec"), script, None)


def _open_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        was: Any = getattr(sys, name)
        mode, lines = ("w" if number else "r"), (1 if number == 2 or os.isatty(number) else -1)
        stream: Any = open(number, mode, lines, encoding=was.encoding, errors=was.errors, closefd=False)  # noqa: SIM115
        if number:
            stream.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


#: Of the first path, what the server's own way of being started has added.
_FOLDERS = {os.getcwd(), "", *os.environ.get("PYTHONPATH", "").split(os.pathsep)}  # noqa: PTH109


def _run_module(name: str, rest: list[str]) -> None:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    if spec is None or spec.loader is None:
        sys.exit(f"{sys.executable}: No module named {name}")
    loader: Any = spec.loader
    sys.argv = [str(spec.origin), *rest]
    _run(loader.get_code(spec.name), str(spec.origin), spec)


def _run(code: Any, file: str, spec: Any) -> None:
    main: Any = types.ModuleType("__main__")
    main.__file__, main.__spec__ = file, spec
    main.__package__ = None if spec is None else spec.parent
    sys.modules["__main__"] = main
    exec(code, vars(main))  # noqa: S102


def main() -> None:
    """Import, then serve; in the processes that come of it, run their program."""
    for name in IMPORTED:
        importlib.import_module(name)
    for name in PACKAGES:
        package = importlib.import_module(f"orchestrator.{name}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    gc.collect()
    gc.disable()
    gc.freeze()
    program = serve(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        become(program)


if __name__ == "__main__":
    main()
