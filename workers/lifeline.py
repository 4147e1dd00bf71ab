"""Runs Celery in a process that ends, with its pool processes, when the process that started it ends.

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
    """End this process when ``owner_pid`` is no longer its parent, so when the owner has ended."""

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
        # Otherwise a busy pool process would outlive its worker until its task ends. A solo pool has none.
        if os.getpid() != worker_pid:
            end_with(worker_pid)

    signals.worker_process_init.connect(in_pool_process, weak=False)
    celery()


if __name__ == "__main__":
    main()
