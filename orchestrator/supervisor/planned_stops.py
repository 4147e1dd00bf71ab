"""Stops that a supervisor has asked for: a file in the state directory for each, written before the signal.

A process that ends looks for its own file, so that the record of deaths tells a deployment from a SIGTERM of anybody
else. A file that cannot be written or seen (a full disk, another user) changes no more than that word.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from orchestrator.supervisor.reading.variables import TREE_VARIABLE

_PREFIX = "planned-stop-"


def announce(state_directory: Path, pid: int) -> None:
    """This process is about to be told to end."""
    with suppress(OSError):
        _file(state_directory, pid).touch(mode=0o600)


def withdraw(state_directory: Path, pid: int) -> None:
    """It has ended; another process may have its id."""
    with suppress(OSError):
        _file(state_directory, pid).unlink(missing_ok=True)


def withdraw_all(state_directory: Path) -> None:
    """None of an earlier supervisor's processes is left."""
    for file in state_directory.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            file.unlink()


def is_announced() -> bool:
    """Whether the supervisor of this process has told it to end."""
    tree = os.environ.get(TREE_VARIABLE)
    return bool(tree) and _file(Path(str(tree)), os.getpid()).exists()


def _file(state_directory: Path, pid: int) -> Path:
    return state_directory / f"{_PREFIX}{pid}"
