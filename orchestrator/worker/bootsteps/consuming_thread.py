"""A thread of a worker's main process that runs while the worker consumes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Before work that has failed is begun again.
_AGAIN_S: Final = 1.0


class ConsumingThread:
    """Runs ``work`` from ``start`` to ``stop``, one at a time, with an event that is set when it has to end.

    ``stop`` does not wait. Where a connection is soon found again, ``start`` comes while the work still ends: then it
    is begun again as soon as it has ended, with an event of its own.
    """

    def __init__(self, work: Callable[[threading.Event], None], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = ForkSafeLock()
        self._stopped = threading.Event()
        self._is_wanted = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the work done from now on."""
        with self._lock:
            self._is_wanted = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Have the work end; does not wait for it."""
        with self._lock:
            self._is_wanted = False
            self._stopped.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._is_wanted:
                    # Only here, so that `start` never relies on a thread that is about to end.
                    self._thread = None
                    return
                stopped = self._stopped = threading.Event()
            try:
                self._work(stopped)
            except Exception:
                logger.exception("%s failed; it is begun again", self._name)
                stopped.wait(_AGAIN_S)
