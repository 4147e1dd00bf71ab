"""The processes of a run under `orchestrator supervise`, which restarts them instead of the run (``--tree``)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from chaos.process import Member, abort
from orchestrator.supervisor.operator.tree_command import Client, NoSupervisor

#: How long the tree's answers are believed.
_FRESH_S: Final = 0.1

#: How long a killed process may be seen.
_GONE_S: Final = 5.0

_POLL_S: Final = 0.01

#: Of each child: no kill has it wait long for its restart.
OPTIONS: Final = "backoff = { first_s = 0.1, cap_s = 0.5 }\n"


class Tree:
    """The supervising process of one run, and what it says of its children."""

    def __init__(self, directory: Path, environment: Mapping[str, str], log: Path) -> None:
        self._directory = directory
        self._environment = environment
        self._log = log
        self._children: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: dict[str, int] = {}
        self._seen_at = float("-inf")

    def add(self, name: str, table: str) -> TreeMember:
        """A child, by the lines of its table in ``orchestrator.toml`` that come after ``id``."""
        self._children.append(f'[[supervisor.children]]\nid = "{name}"\n{table}')
        return TreeMember(name, self)

    def start(self) -> None:
        """Start the supervisor, or start it again."""
        definition = self._directory / "orchestrator.toml"
        definition.write_text(
            "\n".join(['[supervisor]\napp = "chaos.app"\nintensity = 1000\nperiod_s = 60', *self._children])
        )
        script = str(Path(sys.executable).with_name("orchestrator"))
        command = [sys.executable, script, "supervise", str(definition), "--state-dir", str(self._state)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def _state(self) -> Path:
        return self._directory / "tree"

    @property
    def pid(self) -> int:
        """The supervisor's process id; 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    def pid_of(self, name: str) -> int:
        """The process id of a child that runs; 0 if none does, or the supervisor does not answer."""
        if time.monotonic() - self._seen_at > _FRESH_S:
            self._seen_at = time.monotonic()
            answer = self._ask(operation="tree")
            self._pids = {row["path"]: row.get("pid") or 0 for row in answer.get("children", ())}
        return self._pids.get(name, 0)

    def stop(self, name: str) -> None:
        """Have the supervisor stop a child for good."""
        self._ask(operation="stop", id=name)

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            return Client(self._state).ask(**request)
        except NoSupervisor:
            return {}

    def kill(self, pids: Collection[int] = ()) -> None:
        """SIGKILL the supervisor; returns when it has ended, and these processes with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _await(lambda: not any(map(_is_alive, pids)))
        self._pids = {}

    def close(self) -> None:
        """End the supervisor with all its children."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GONE_S)
        except subprocess.TimeoutExpired:
            self.kill()


class TreeMember(Member):
    """A child of the tree: the process that was its last when the run looked."""

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, [], {}, Path())
        self._tree = tree
        self._pid = 0

    def start(self) -> None:
        """The tree does that."""

    def restart(self) -> bool:
        """Whether the tree has started it again since :attr:`pid`, which is the new process then."""
        pid = self._tree.pid_of(self.name)
        if pid in (0, self._pid):
            return False
        self._pid = pid
        return True

    @property
    def pid(self) -> int:
        """The process' id; 0 before its first start. Only :meth:`restart` takes note of one."""
        return self._pid or self._tree.pid_of(self.name)

    @property
    def is_running(self) -> bool:
        """Whether that process lives."""
        return self.pid != 0 and _is_alive(self.pid)

    @property
    def exit_code(self) -> int | None:
        """Only its parent, the supervisor, knows."""
        return None

    def end(self) -> None:
        """Have it stopped for good."""
        self._tree.stop(self.name)

    def say_where(self) -> None:
        """End a main process that hangs, and its pool, with the stacks of their threads in the log."""
        abort(self.children())
        self.signal(signal.SIGABRT)
        _await(lambda: not self.is_running)

    def kill(self) -> None:
        """SIGKILL its group; returns when it has ended."""
        pid = self.pid
        if pid and _is_alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _await(lambda: not self.is_running)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _await(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + _GONE_S
    while not holds() and time.monotonic() < until:
        time.sleep(_POLL_S)
