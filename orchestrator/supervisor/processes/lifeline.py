"""A process that outlives the supervisor for a moment: if that is killed, it kills what the supervisor has started.

It is a fork, without a program of its own, so that it costs little memory and can be started in a millisecond. The
supervisor writes to it which process groups there are. When the pipe closes, the supervisor has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from functools import partial

from orchestrator.supervisor.processes.proc import born, descendants, kill_group, kill_if, kill_tree

#: Processes outside the groups that it is given, at most.
_MAX_ESCAPED = 1000


class Lifeline:
    """The supervisor's end of it."""

    def __init__(self, state_directory: str) -> None:
        self._state_directory = state_directory
        self._pipe = -1
        self._escaped: dict[int, int] = {}
        self.pid = 0

    def start(self, groups: Iterable[int]) -> None:
        """Start it, or another one after its end, with the groups that there are."""
        self.close()
        reader, self._pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _run(reader, self._state_directory)
        os.close(reader)
        for group in groups:
            self.add(group)
        self._write_escaped()

    def add(self, group: int) -> None:
        """There is a group."""
        self._write(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It is about to end. To be called while its leader's process id cannot be reused."""
        self._write(f"-{group}\n")

    def escaped(self, processes: Mapping[int, int]) -> None:
        """There are these processes in no such group and without the tree's mark, each with its start time."""
        if processes != self._escaped:
            self._escaped = dict(processes)
            self._write_escaped()

    def _write_escaped(self) -> None:
        self._write(f"={' '.join(f'{pid}:{began}' for pid, began in list(self._escaped.items())[:_MAX_ESCAPED])}\n")

    def release(self) -> None:
        """The supervisor ends, and has seen to everything."""
        self._write("quit\n")
        self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _write(self, line: str) -> None:
        # If it has ended, another one is started when the kernel says so, and given all groups.
        with contextlib.suppress(OSError):
            os.write(self._pipe, line.encode())


def _kill_escaped(escaped: Mapping[int, int]) -> None:
    there = {pid: began for pid, began in escaped.items() if born(pid) == began}
    there |= {pid: began for pid in descendants(there) if (began := born(pid)) is not None}
    for pid, began in there.items():
        kill_if(pid, partial(_is_of, began))


def _is_of(began: int, pid: int) -> bool:
    return born(pid) == began


def _run(reader: int, state_directory: str) -> None:
    """The forked process. Never returns."""
    try:
        with contextlib.suppress(OSError):
            os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        if reader != 3:
            os.dup2(reader, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
        groups: set[int] = set()
        escaped: dict[int, int] = {}
        pending = b""
        while received := os.read(3, 65536):
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                if line == b"quit":
                    os._exit(0)
                if line[:1] == b"=":
                    pairs = [one.split(b":") for one in line[1:].split()]
                    escaped = {int(pid): int(began) for pid, began in pairs}
                    continue
                (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
        # First, while it can be seen what is below them.
        _kill_escaped(escaped)
        for group in groups:
            kill_group(group)
        kill_tree(state_directory)
    finally:
        os._exit(0)
