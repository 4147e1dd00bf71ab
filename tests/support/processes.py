"""Look at processes that the tests started."""

from collections.abc import Callable
from typing import TypeVar

import psutil

from orchestrator.supervisor.processes.proc import is_between_programs
from tests.support.eventually import eventually

Shown = TypeVar("Shown", str, list[str])


def shown(pid: int, read: Callable[[], Shown]) -> Shown:
    """Read a variable or the command line of a process, once it has any.

    Whoever starts a process goes on as soon as its ``execve`` cannot fail any more. Until that has ended, which takes
    some milliseconds on a busy machine, it has neither.
    """
    found = read()

    def is_settled() -> bool:
        nonlocal found
        was_between = is_between_programs(pid)
        found = read()
        return bool(found) or not (was_between or is_between_programs(pid))

    if not found:
        eventually(is_settled)
    return found


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that only its parent has yet to notice counts as ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
