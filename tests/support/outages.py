"""Servers and processes that are away for a while, and are back when the ``with`` ends, however it ends.

A fixture may share them with later tests, which must not fail because of an earlier one.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.embedded import EmbeddedServer
from tests.support.worker_process import WorkerProcess


@contextmanager
def killed(server: EmbeddedServer) -> Iterator[None]:
    """Redis dies by SIGKILL, and is started again at the end."""
    server.kill()
    try:
        yield
    finally:
        server.restart()


@contextmanager
def hanging(server: EmbeddedServer) -> Iterator[None]:
    """Redis is stopped: it accepts connections, and answers nothing."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def suspended(*workers: WorkerProcess) -> Iterator[None]:
    """The main processes of these workers are stopped."""
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            if worker.is_running:
                worker.signal(signal.SIGCONT)
