"""One process of a run, which can be killed in several ways and restarted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from chaos.forked_process import ROOT, ForkedProcess

_STACKS_TAKE_S = 2.0


class Member:
    """A command in a process group of its own. All its restarts share one log."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log = logs / f"{name}.log"
        self._process: ForkedProcess | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("ab") as log:
            self._process = ForkedProcess(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The main process' id; 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the main process lives; a stopped one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, as ``subprocess`` puts it."""
        return None if self._process is None else self._process.poll()

    def children(self) -> list[int]:
        """Process ids of its pool."""
        try:
            return sorted(child.pid for child in psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Signal the main process, or all of it."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def restart(self) -> bool:
        """Start it again, without what is left of it; returns whether it runs now."""
        self.kill()
        self.start()
        return True

    def end(self) -> None:
        """Ask it to end."""
        self.signal(signal.SIGTERM)

    def say_where(self) -> None:
        """End a main process that hangs, and its pool, with the stacks of their threads in the log."""
        abort(self.children())
        self.signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(_STACKS_TAKE_S)

    def kill(self) -> None:
        """SIGKILL the process group, and leftovers of earlier starts; returns when they have ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def abort(pids: Iterable[int]) -> None:
    """End processes with the stacks of their threads in their log."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)
