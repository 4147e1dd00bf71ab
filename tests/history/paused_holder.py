"""A process that increments a counter under a lease with a limit, once; it may stop itself before it writes.

``python -m tests.history.paused_holder URL FILE NAME COUNTER [stops]``; see ``client.py``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.history.client import Client

#: Seconds for which the lease is held at most.
LIMIT_S = 0.3


class PausedHolder(Client):
    """One increment."""

    def __init__(self, url: str, file: Path, name: str, *, stops: bool) -> None:
        super().__init__(url, file, name, url)
        self._stops = stops

    def pause(self) -> None:
        """Between reading and writing."""
        if self._stops:
            os.kill(os.getpid(), signal.SIGSTOP)

    def increment_once(self, counter: str) -> None:
        """Acquire the lease, and increment."""
        with self.orchestrator.monitors.session():
            held = self.orchestrator.lease("lease", wait_s=20, limit_s=LIMIT_S).acquire()
            self.increment(counter, held.fence)
            held.release()


if __name__ == "__main__":
    url, file, name, counter, stops = sys.argv[1:]
    PausedHolder(url, Path(file), name, stops=bool(stops)).increment_once(counter)
