"""Celery in a process that ends with the one that started it, and takes its pool processes along.

``python -m workers.lifeline OWNER_PID -A workers worker …`` is ``celery -A workers worker …`` with that added.
However the owner ends, SIGKILL included, nothing stays behind.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from celery import signals
from celery.__main__ import main as celery

_LOOK_EVERY_S = 0.2


def end_with(owner_pid: int) -> None:
    """End this process as soon as ``owner_pid`` is not its parent: then that one is gone."""

    def watch() -> None:
        never = threading.Event()
        while os.getppid() == owner_pid:
            never.wait(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main() -> None:
    """Run Celery with the arguments after the owner's pid."""
    end_with(int(sys.argv.pop(1)))
    worker_pid = os.getpid()

    def in_pool_process(**_: Any) -> None:
        # Left alone, one that is busy would outlive its worker until it had finished. A solo pool has none.
        if os.getpid() != worker_pid:
            end_with(worker_pid)

    signals.worker_process_init.connect(in_pool_process, weak=False)
    celery()


if __name__ == "__main__":
    main()
