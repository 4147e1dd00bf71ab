"""A process that holds a lease in a session which it does not close.

``python -m tests.support.session_process URL NAME HOW`` writes the session's id once it holds the lease, and ends in
the way ``HOW`` when it has read a line.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from orchestrator import Orchestrator
from tests.support.coordination_under_test import make

#: Sessions that must not be forgotten before the process ends.
_OPEN: Final[list[object]] = []


def _hold(orchestrator: Orchestrator, name: str) -> str:
    session = orchestrator.monitors.session()
    session.__enter__()
    _OPEN.extend((session, orchestrator.lease(name).acquire()))
    return session.id


def _hold_in_daemon(orchestrator: Orchestrator, name: str, wait: Callable[[], object]) -> None:
    with orchestrator.monitors.session() as session, orchestrator.lease(name):
        print(session.id, flush=True)  # noqa: T201
        wait()


def _fork() -> None:
    """A child that ends as processes do, with the functions that are registered for it."""
    if not (child := os.fork()):
        sys.exit(0)
    os.waitpid(child, 0)
    print("forked", flush=True)  # noqa: T201
    sys.stdin.readline()


def _fail() -> NoReturn:
    raise RuntimeError("nobody catches this")


#: How a process ends.
ENDS: Final[dict[str, Callable[[], object]]] = {
    "end of script": lambda: None,
    "exit": lambda: sys.exit(3),
    "error": _fail,
    "daemon thread": lambda: None,
    "fork": _fork,
}


def _main(url: str, name: str, how: str) -> None:
    orchestrator = make(url)
    if how == "daemon thread":
        never = threading.Event().wait
        threading.Thread(target=_hold_in_daemon, args=(orchestrator, name, never), daemon=True).start()
    else:
        print(_hold(orchestrator, name), flush=True)  # noqa: T201
    sys.stdin.readline()
    ENDS[how]()


if __name__ == "__main__":
    _main(*sys.argv[1:])
