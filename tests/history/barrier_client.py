"""A process that is a party of a barrier, and writes down what it did: it may be killed at any moment.

``python -m tests.history.barrier_client URL FILE NAME PROXY``; see ``client.py``.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

from orchestrator import BarrierBroken
from tests.history.client import Client

PARTIES = 3
NAME = "barrier"


class BarrierClient(Client):
    """One party at a time; its next arrival is another's."""

    def once(self) -> None:
        """Arrive and wait; whoever finds the barrier broken resets it."""
        barrier = self.orchestrator.barrier(NAME, PARTIES, timeout_s=3)
        threading.Event().wait(random.random() * 0.05)
        number = self.call(NAME, "arrive", self.name)
        try:
            arrival = barrier.arrive(self.name)
        except BarrierBroken as broken:
            self.note(number=number, result="refused")
            barrier.reset(broken.generation)
            return
        self.note(number=number, result=arrival.generation)
        number = self.call(NAME, "pass", arrival.generation)
        try:
            # One in ten has no patience, and breaks it for all.
            arrival.wait(0.01 if random.random() < 0.1 else 6)
        except BarrierBroken as broken:
            self.note(number=number, result="broken")
            barrier.reset(broken.generation)
            return
        self.note(number=number, result="tripped")


if __name__ == "__main__":
    url, file, name, through = sys.argv[1:]
    BarrierClient(url, Path(file), name, through).run()
