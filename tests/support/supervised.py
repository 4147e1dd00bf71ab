"""Real trees of real processes: `orchestrator supervise` as a child of the test."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from orchestrator.supervisor.operator.tree_command import Client
from orchestrator.supervisor.processes.proc import all_pids, variable_of
from orchestrator.supervisor.reading.variables import TREE_VARIABLE
from tests.support.processes import shown

#: A child that says so when it runs, and then waits.
WAITS = ["sh", "-c", "echo up; exec sleep 1000"]

#: The command, as it is installed.
ORCHESTRATOR = str(Path(sys.executable).parent / "orchestrator")

PYTHON = [sys.executable, "-S", "-E", "-c"]


def toml(children: list[dict[str, Any]], **root: Any) -> str:
    """A definition."""
    tables = [
        f"{name} = {_inline(value) if isinstance(value, dict) else json.dumps(value)}" for name, value in root.items()
    ]
    return "\n".join(["[supervisor]", *tables, f"children = [{', '.join(_inline(child) for child in children)}]"])


def _inline(table: dict[str, Any]) -> str:
    parts = []
    for name, value in table.items():
        if isinstance(value, dict):
            text = _inline(value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            text = f"[{', '.join(_inline(one) for one in value)}]"
        else:
            text = json.dumps(value)
        parts.append(f"{name} = {text}")
    return "{ " + ", ".join(parts) + " }"


def process(name: str, command: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """A child of kind `process`."""
    return {"id": name, "kind": "process", "command": command or WAITS, **options}


#: Variables that name another broker than the test's.
_BROKER = ("ORCHESTRATOR_BROKER_URL", "ORCHESTRATOR_CONFIG", "CELERY_BROKER_URL")


def _heed_terminals() -> None:
    """A shell that starts the tests in the background has them ignore these signals, and what they start, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Site:
    """A directory for ``PYTHONPATH`` with a text that Python runs before anything else.

    Python only prints an error in it, and goes on: a test is to ask whether all of it was run.
    """

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        directory.mkdir()
        note = f"import os\nopen(f'{directory}/loaded.{{os.getpid()}}', 'x').close()\n"
        (directory / "sitecustomize.py").write_text(f"{text}\n{note}")

    def is_loaded_by(self, tree: Supervised) -> bool:
        """Whether the supervisor of a tree that runs has run the text."""
        return (self.directory / f"loaded.{tree.process.pid}").exists()


class Supervised:
    """One tree that runs."""

    def __init__(
        self,
        directory: Path,
        definition: str | None,
        *arguments: str,
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.environment = environment or {}
        self.state = directory / "state"
        if definition is not None:
            (directory / "orchestrator.toml").write_text(definition)
        self.lines: list[str] = []
        #: Lines that were looked at.
        self.taken: list[str] = []
        self._pending = b""
        self.process = subprocess.Popen(
            # Should the tests be killed, their trees end with them.
            [*prefix, ORCHESTRATOR, "supervise", "--state-dir", str(self.state), "--until-stdin-closes", *arguments],
            cwd=directory,
            env={**{name: value for name, value in os.environ.items() if name not in _BROKER}, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_terminals,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def wait_for(self, text: str, timeout_s: float = 20.0) -> str:
        """Wait for a line with this text; lines before it are not looked at again."""
        until = monotonic() + timeout_s
        while True:
            while self.lines:
                line = self.lines.pop(0)
                self.taken.append(line)
                if text in line:
                    return line
            assert self._read(until - monotonic()), f"no line with {text!r}"

    def all_lines(self, timeout_s: float = 20.0) -> list[str]:
        """All lines that are left, when it has ended."""
        until = monotonic() + timeout_s
        while self._read(until - monotonic()):
            pass
        return self.lines

    def _read(self, left_s: float) -> bool:
        output = self.process.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            if left_s <= 0 or not selector.select(left_s):
                return False
        received = os.read(output.fileno(), 65536)
        *lines, self._pending = (self._pending + received).split(b"\n")
        self.lines += [line.decode("utf-8", "replace") for line in lines]
        return bool(received)

    def ask(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``orchestrator tree``."""
        command = [ORCHESTRATOR, "tree", "--state-dir", str(self.state), *arguments]
        inherited = {**os.environ, **(environment or {})}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=inherited)

    @contextlib.contextmanager
    def asking(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run ``orchestrator tree``; what it prints can be read while it waits."""
        with subprocess.Popen(
            [ORCHESTRATOR, "tree", "--state-dir", str(self.state), *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as asked:
            try:
                yield asked
            finally:
                asked.kill()

    def tree(self) -> dict[str, Any]:
        """The tree's rows by path, without the command: tests ask again until they see what they wait for."""
        with contextlib.closing(Client(self.state)) as client:
            return {row["path"]: row for row in client.ask(operation="tree")["children"]}

    def members(self) -> list[int]:
        """All processes with the tree's mark."""
        mark = os.path.realpath(self.state)
        return [pid for pid in all_pids() if shown(pid, partial(variable_of, pid, TREE_VARIABLE)) == mark]

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; returns the exit code. Workers stop one after the other, which may take each some seconds."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it, and whatever a broken supervisor would leave."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        for pid in self.members():
            # It may end meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
