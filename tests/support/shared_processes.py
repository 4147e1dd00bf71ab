"""Servers and workers that a fixture shares between tests: what a failed test has left of them.

A test that fails between killing a shared process and starting it again must not fail those after it, and a worker of
a fixture prints its log to nobody.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from typing import TypeVar

from orchestrator.embedded import EmbeddedServer, EmbeddedServerError
from tests.support.worker_process import WorkerProcess

Found = TypeVar("Found")

#: Characters of each log that are shown.
_LONGEST_LOG = 6000


def _all(kind: type[Found]) -> list[Found]:
    # By its type alone: proxies make the object that they stand for when they are asked for its class.
    return [found for found in gc.get_objects() if type(found) is kind]


def open_logs() -> list[tuple[str, str]]:
    """A title and the end of the log for each worker that is not closed."""
    return [
        (f"log of worker {worker.name}", worker.log()[-_LONGEST_LOG:])
        for worker in _all(WorkerProcess)
        if worker.is_open
    ]


def restore() -> None:
    """Have each server and worker that is not closed run again, if it was killed or suspended."""
    for server in _all(EmbeddedServer):
        # One that is not started, or is the parent's of a fork, is nobody's concern.
        with contextlib.suppress(EmbeddedServerError):
            server.resume()
            if not server.is_running:
                server.restart()
    for worker in _all(WorkerProcess):
        if not worker.is_open:
            continue
        try:
            if worker.is_running:
                worker.signal(signal.SIGCONT)
            else:
                worker.start()
        except (AssertionError, OSError) as error:
            sys.stderr.write(f"worker {worker.name} not restored: {error}\n")
