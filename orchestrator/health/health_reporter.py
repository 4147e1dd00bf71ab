"""The thread in which a process says every second how it is."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from orchestrator.core.log import get_logger
from orchestrator.health import files

logger = get_logger(__name__)

#: Between two writings. A probe takes thirty of them missed for a process that hangs.
EVERY_S = 1.0

Signs = Callable[[], Mapping[str, Any]]


class HealthReporter:
    """Of this process. It says that the process can run threads at all, and what its incarnation last told it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stop = threading.Event()
        self._node = ""
        self._folder = Path()
        self._signs: Signs = dict
        self._facts: dict[str, Any] = {}
        self._consumes: Callable[[], bool] | None = None

    def start(self, node: str, consumes: Callable[[], bool] | None = None) -> None:
        """Begin; a second time it does nothing. Where no file can be written a warning says so, and that is all.

        A worker says with ``consumes`` whether it is to consume at present.
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
        """Have these facts in the file from now on."""
        self._facts.update(facts)

    def watch(self, vitals: Signs) -> None:
        """From now on, ``vitals`` tells what there is to say of the incarnation; the last one told so counts."""
        self._signs = vitals

    def watches(self, vitals: Signs) -> bool:
        """Whether it is ``vitals`` that counts."""
        return self._signs == vitals

    def is_worker(self) -> bool:
        """Whether this process is one that consumes for as long as it runs."""
        return self._consumes is not None

    def should_consume(self) -> bool:
        """Whether this process is a worker that is to consume at present."""
        return self._consumes is not None and self._consumes()

    def stop(self) -> None:
        """End, and leave no file."""
        self._stop.set()
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
        while not self._stop.wait(EVERY_S):
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
