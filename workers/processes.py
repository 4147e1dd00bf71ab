"""The demo's processes under ``orchestrator supervise``: restarted when they die, and ended with the demo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from orchestrator.core.errors import InfrastructureError
from orchestrator.supervisor.operator.tree_command import Client, NoSupervisor

#: Ends of all processes together after which the supervisor stops. The demo itself causes a few.
_MAX_ENDS = 10

#: Seconds that a process has at the end of the demo to finish its work.
_FAREWELL_S = 3.0

#: Longest time for the supervisor's start and its end.
_PATIENCE_S = 20.0

_LOOK_EVERY_S = 0.02

_ROOT = Path(__file__).parent.parent

_ORCHESTRATOR = Path(sys.executable).parent / "orchestrator"


def _python_path(environment: Mapping[str, str]) -> str:
    """The path on which the demo's own packages are found, in front of the user's."""
    return os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH", "")]))


class KeepsDying(InfrastructureError):
    """The supervisor has ended, because the processes ended too often."""

    def __init__(self, last_words: str) -> None:
        super().__init__(f"the demo's processes keep dying: {last_words}")


@dataclass(frozen=True, slots=True)
class Child:
    """One process that the supervisor runs, with its pool."""

    name: str
    crew: Crew

    @property
    def pid(self) -> int | None:
        """The process' id, while it runs."""
        pid: int | None = self.crew.row(self.name).get("pid")
        return pid

    def pause(self) -> None:
        """SIGSTOP it and its pool processes."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT them."""
        self._signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL the process and its pool, as an OOM killer does."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)


class Crew:
    """All processes of the demo. Leaving the context ends them: by SIGTERM, or by SIGKILL after an error."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self._state = directory / "supervise"
        self._log = directory / "supervise.log"
        self._children: list[dict[str, Any]] = []
        self._restarts: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    def add(self, name: str, kind: str, **options: Any) -> Child:
        """Have a child: options as in ``orchestrator.toml``."""
        self._children.append({"id": name, "kind": kind, "shutdown_s": _FAREWELL_S, **options})
        return Child(name, self)

    def start(self) -> None:
        """Start the supervisor, and with it all children.

        Raises:
            KeepsDying: it has ended.
        """
        definition = self._directory / "orchestrator.toml"
        head = {"app": "workers", "intensity": _MAX_ENDS}
        definition.write_text("[supervisor]\n" + _lines(head) + "".join(map(_table, self._children)))
        command: Sequence[str] = (str(_ORCHESTRATOR), "supervise", str(definition), "--state-dir", str(self._state))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--until-stdin-closes"],
                cwd=_ROOT,
                # The tree's definition lies elsewhere, and its children start there.
                env={**self._environment, "PYTHONPATH": _python_path(self._environment)},
                # Closed when the demo ends, however that may be.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C at a terminal must reach the demo alone.
                start_new_session=True,
            )
        until = monotonic() + _PATIENCE_S
        while self._client is None:
            try:
                self._client = Client(self._state)
            except NoSupervisor:
                if self._process.poll() is not None or monotonic() > until:
                    raise KeepsDying(self._last_words()) from None
                sleep(_LOOK_EVERY_S)

    def _rows(self) -> dict[str, dict[str, Any]]:
        if self._client is None:
            return {}
        try:
            return {row["path"]: row for row in self._client.ask(operation="tree")["children"]}
        except NoSupervisor:
            raise KeepsDying(self._last_words()) from None

    def row(self, name: str) -> dict[str, Any]:
        """What the supervisor says of a child."""
        return self._rows().get(name, {})

    def restarted(self) -> list[str]:
        """The children that were restarted since this was last asked.

        Raises:
            KeepsDying: the supervisor has ended.
        """
        now = {name: row["restarts"] for name, row in self._rows().items()}
        before, self._restarts = self._restarts, now
        return [name for name, count in now.items() if count > before.get(name, 0)]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " / ".join(lines[-3:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        process = self._process
        if process is None:
            return
        try:
            # After an error, kill at once: the supervisor does so when its standard input closes.
            if kind is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_FAREWELL_S * (1 + len(self._children)))
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _lines(options: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())


def _table(options: Mapping[str, Any]) -> str:
    return "[[supervisor.children]]\n" + _lines(options)
