"""Starts a process in a session and a group of its own, which ends with the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.supervisor.processes.proc import die_with_parent

#: Signals that a Python program ignores, or that the supervisor handles.
_RESET = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that runs its program."""

    pid: int
    #: Where its standard output and standard error are read.
    output: int


def spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
) -> Spawned:
    """Start a program. Its output is read from a pipe, but for a standard output that is given.

    Raises:
        OSError: it is not there, or cannot be executed; the directory neither; or there can be no more processes.
    """
    reader, writer = os.pipe()
    failed, failing = os.pipe()
    parent = os.getpid()
    # Until the new process has its own handlers, a signal to it would be taken for one to the supervisor.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(arguments, environment, directory, parent, (stdin, stdout, writer), failing)
    except OSError:
        os.close(failed)
        os.close(reader)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writer)
        os.close(failing)
    # Closed when the program runs.
    report = os.read(failed, 64)
    os.close(failed)
    if report:
        os.close(reader)
        os.waitpid(pid, 0)
        number = int(report)
        raise OSError(number, os.strerror(number), arguments[0])
    os.set_blocking(reader, False)
    return Spawned(pid, reader)


def _become(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    parent: int,
    files: tuple[int | None, int | None, int],
    failing: int,
) -> None:
    """In the new process. Never returns."""
    stdin, stdout, writer = files
    try:
        signal.set_wakeup_fd(-1)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        die_with_parent(parent)
        os.chdir(directory)
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
        os.dup2(writer if stdout is None else stdout, 1)
        os.dup2(writer, 2)
        os.execvpe(arguments[0], list(arguments), dict(environment))  # noqa: S606
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(failing, str(error.errno or 1).encode())
    finally:
        os._exit(127)
