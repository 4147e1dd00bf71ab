"""A thread that writes the process' health file every second."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.log import get_logger
from orchestrator.health import files

logger = get_logger(__name__)

#: Seconds between two writes. After 30 missed writes a probe reports the process as hung.
EVERY_S = 1.0

Signs = Callable[[], Mapping[str, Any]]


class HealthReporter:
    """Writes this process' health file: proof that it can run threads, and the vitals of its incarnation."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stop = threading.Event()
        #: Set to have the file written at once.
        self._due = threading.Event()
        self._node = ""
        self._folder = Path()
        self._signs: Signs = dict
        self._facts: dict[str, Any] = {}
        self._consumes: Callable[[], bool] | None = None

    def start(self, node: str, consumes: Callable[[], bool] | None = None) -> None:
        """Start the thread; does nothing if it runs. If the file cannot be written, a warning is logged.

        ``consumes``, of a worker, returns whether the worker should be consuming now.
        """
        with self._lock:
            self._consumes = consumes or self._consumes
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._node = node
            self._stop = threading.Event()
            try:
                folder = files.directory_to_write()
                self._folder = folder
                files.remove_leftovers(folder)
                self._write(folder)
            except (OSError, files.UntrustedDirectory) as error:
                logger.warning("health file not created; `orchestrator health` does not list this process: %s", error)
                return
            self._thread = threading.Thread(target=self._beat, args=(folder,), name="orchestrator-pulse", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    def publish(self, **facts: Any) -> None:
        """Add these fields to the file."""
        self._facts.update(facts)

    def watch(self, vitals: Signs) -> None:
        """Read the incarnation's fields from ``vitals`` from now on, which replaces the function before."""
        self._signs = vitals
        self._due.set()

    def watches(self, vitals: Signs) -> bool:
        """Whether the fields are read from ``vitals``."""
        return self._signs == vitals

    def is_worker(self) -> bool:
        """Whether this process is a worker."""
        return self._consumes is not None

    def should_consume(self) -> bool:
        """Whether this process is a worker that should be consuming now."""
        return self._consumes is not None and self._consumes()

    def stop(self) -> None:
        """Stop the thread and remove the file."""
        self._stop.set()
        self._due.set()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout=EVERY_S)
            try:
                files.remove(self._folder, self._pid)
            except OSError as error:
                logger.debug("health file not removed: %s", error)

    def _write(self, folder: Path) -> None:
        files.write(folder, {"node": self._node, "at_s": monotonic(), **self._facts, **self._signs()})

    def _beat(self, folder: Path) -> None:
        broken = False
        while True:
            self._due.wait(EVERY_S)
            if self._stop.is_set():
                return
            self._due.clear()
            try:
                self._write(folder)
                broken = False
            except OSError as error:
                if not broken:
                    logger.warning(
                        "health file not written; `orchestrator health` will report this process as hung: %s", error
                    )
                broken = True


HEALTH_REPORTER = HealthReporter()
