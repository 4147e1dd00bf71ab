"""Workers that run: a file in the state directory for each.

The next supervisor reports those that have died with this one.

A file that cannot be written or read changes only who finds the death: the sweep, some seconds later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.supervisor.processes.proc import is_running

_PREFIX = "worker-"


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """The data that a report of a worker's death needs."""

    pid: int
    born: int | None
    started_s: float
    app: str
    node: str
    #: Variables of its own that say where its health file is.
    environment: Mapping[str, str] = field(default_factory=dict)


def add(state_directory: Path, worker: RunningWorker) -> None:
    """It has been started."""
    with suppress(OSError):
        _file(state_directory, worker.pid).write_text(json.dumps(asdict(worker)), encoding="utf-8")


def remove(state_directory: Path, pid: int) -> None:
    """It has ended, and its death is reported."""
    with suppress(OSError):
        _file(state_directory, pid).unlink(missing_ok=True)


def take_dead(state_directory: Path) -> list[RunningWorker]:
    """Those of an earlier supervisor that have ended since; no file is left."""
    return [worker for worker in _taken(state_directory) if not is_running(worker.pid, worker.born)]


def _taken(state_directory: Path) -> Iterator[RunningWorker]:
    for file in sorted(state_directory.glob(f"{_PREFIX}*")):
        with suppress(OSError, ValueError, TypeError):
            content = file.read_bytes()
            file.unlink()
            yield RunningWorker(**json.loads(content))


def _file(state_directory: Path, pid: int) -> Path:
    return state_directory / f"{_PREFIX}{pid}"
