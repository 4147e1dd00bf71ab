"""A process with many threads that wait for a permit, hold it for a moment and wait again: it may be killed.

``python -m tests.history.waiting_process URL FILE NAME THREADS`` writes to FILE when each request was made, seen in
line, granted and released.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from orchestrator import InfrastructureError
from orchestrator.coordination.named_leases import NamedLeases, Wanted
from orchestrator.core.coordination.lease import Kind
from orchestrator.worker.execution.owner import Owner
from tests.history.log import Log
from tests.support.coordination_under_test import make

#: Permits of the name, which is asked for by all.
PERMITS = 10
NAME = "many"

#: How long a request waits, and how long what it is granted is held.
WAIT_S, HOLD_S = 600.0, 0.005


class WaitingProcess:
    """Threads that share one session, so that a thousand of them need no thousand heartbeats."""

    def __init__(self, url: str, file: Path, name: str) -> None:
        self.orchestrator = make(url)
        self.log = Log(file, name)
        self.leases: NamedLeases = self.orchestrator.coordination._leases()
        named_leases: Any = self.leases
        self._ask = named_leases._ask
        named_leases._ask = self.ask
        self._here = threading.local()

    def ask(self, *arguments: Any) -> Any:
        """As the named leases ask, and write down when the request is in line."""
        grant, ahead = self._ask(*arguments)
        if grant is None and self._here.arriving is not None:
            self.log.note(number=self._here.arriving, result=ahead)
            self._here.arriving = None
        return grant, ahead

    def run(self, threads: int) -> None:
        """Go on until killed."""
        with self.orchestrator.monitors.session() as session:
            wanted = Wanted(Kind.SEMAPHORE, NAME, Owner(session.id, NAME), WAIT_S, 0, permits=PERMITS)
            for _ in range(threads):
                threading.Thread(target=self._wait_again, args=(wanted,), daemon=True).start()
            threading.Event().wait()

    def _wait_again(self, wanted: Wanted) -> None:
        while True:
            self._here.arriving = self.log.call(NAME, "arrive")
            serving = self.log.call(NAME, "serve", self._here.arriving)
            try:
                grant = self.leases.acquire(wanted)
            except InfrastructureError as error:
                # On a busy machine it may have been declared dead.
                self.log.note(error=f"{type(error).__name__}: {error}")
                os._exit(1)
            self.log.note(number=serving, result=grant.fence)
            threading.Event().wait(HOLD_S)
            self.log.call(NAME, "release", grant.fence)
            self.leases.release(grant)


if __name__ == "__main__":
    url, file, name, threads = sys.argv[1:]
    WaitingProcess(url, Path(file), name).run(int(threads))
