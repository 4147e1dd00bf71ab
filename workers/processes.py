"""The demo's child processes: started, restarted when they die, and ended with the demo."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from orchestrator.core.errors import InfrastructureError

#: A process that dies more often than this is not restarted again.
_MAX_RESTARTS = 5

#: Seconds that the processes have at the end of the demo to finish their work.
_FAREWELL_S = 3.0

_ROOT = Path(__file__).parent.parent


class KeepsDying(InfrastructureError):
    """A child process died after each of its restarts."""

    def __init__(self, name: str, exit_code: int) -> None:
        super().__init__(f"{name} keeps dying (exit code {exit_code}, started {_MAX_RESTARTS + 1} times)")


@dataclass(slots=True)
class Child:
    """One ``celery -A workers …`` process, in a process group of its own with its pool."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.lifeline", str(os.getpid()), "-A", "workers", *self.arguments],
                cwd=_ROOT,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at a terminal must reach the demo alone; and a group can be killed as a whole.
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The process' id, once it was started."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; ``None`` while it runs."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM: the process finishes its work and ends."""
        if self._process is not None:
            self._process.terminate()

    def pause(self) -> None:
        """SIGSTOP it and its pool processes."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT them."""
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: signal.Signals) -> None:
        # Before the process is polled, its pid cannot be reused.
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL the process and its pool, as an OOM killer does; returns when they have ended."""
        if self._process is not None:
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, at most that long."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, timeout_s))


class Crew:
    """All child processes of the demo. Leaving the context ends them: by SIGTERM, or by SIGKILL after an error."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self.children: list[Child] = []

    def start(self, name: str, *arguments: str) -> Child:
        """Start ``celery -A workers`` with these arguments."""
        child = Child(name, arguments, self._environment, self._logs / f"{name}.log")
        self.children.append(child)
        child.start()
        return child

    def restart_ended(self) -> list[Child]:
        """Restart processes that have ended; returns them.

        Raises:
            KeepsDying: a process has ended too often.
        """
        dead = []
        for child in self.children:
            exit_code = child.exit_code
            if exit_code is None:
                continue
            if child.restarts >= _MAX_RESTARTS:
                raise KeepsDying(child.name, exit_code)
            child.restarts += 1
            child.start()
            dead.append(child)
        return dead

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            # After an error, kill at once.
            if kind is None:
                self._dismiss()
        finally:
            for child in self.children:
                child.kill()

    def _dismiss(self) -> None:
        for child in self.children:
            child.terminate()
        until = monotonic() + _FAREWELL_S
        for child in self.children:
            child.wait(until - monotonic())
