"""A process that waits in lines in several threads, and writes down when it was in one, and when it was granted.

``python -m tests.history.line_client URL FILE NAME PROXY``; see ``client.py``.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path
from typing import Any

from orchestrator import InfrastructureError, LeaseTaken
from orchestrator.coordination.lease import Held
from tests.history.client import Client

#: Each thread is an owner of its own.
_THREADS = 3

WAIT_S = 2.0


class LineClient(Client):
    """Threads that stand in line."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        named_leases: Any = self.orchestrator.runtime.redis.named_leases
        self._ask = named_leases._ask
        named_leases._ask = self.ask
        #: Of each thread, the arrival that it has not seen in line yet.
        self._here = threading.local()

    def ask(self, *arguments: Any) -> Any:
        """As the named leases ask, and write down that the request is in line."""
        grant, ahead = self._ask(*arguments)
        if grant is None and self._here.arriving is not None:
            self.note(number=self._here.arriving, result=ahead)
            self._here.arriving = None
        return grant, ahead

    def run(self) -> None:
        """Go on until killed."""
        for _ in range(_THREADS - 1):
            threading.Thread(target=super().run, daemon=True).start()
        super().run()

    def once(self) -> None:
        """Stand in line, be served for a moment, and go."""
        name, permits = random.choice((("lease", 1), ("semaphore", 2)))
        ticket = f"{self.name} {random.random()}"
        self._here.arriving = arriving = self.call(name, "arrive", ticket)
        serving = self.call(name, "serve", ticket)
        try:
            held = self._acquire(name, permits)
        except (LeaseTaken, InfrastructureError) as error:
            self.note(number=serving, result="taken" if isinstance(error, LeaseTaken) else "gone")
            if isinstance(error, LeaseTaken):
                return
            raise
        self.note(number=serving, result="served")
        if self._here.arriving is not None:
            # It was the first one, and nobody was before it.
            self.note(number=arriving, result=0)
        threading.Event().wait(random.random() * 0.02)
        held.release()

    def _acquire(self, name: str, permits: int) -> Held:
        if permits == 1:
            return self.orchestrator.lease(name, wait_s=WAIT_S).acquire()
        return self.orchestrator.semaphore(name, permits).acquire(wait_s=WAIT_S)


if __name__ == "__main__":
    url, file, name, through = sys.argv[1:]
    LineClient(url, Path(file), name, through).run()
