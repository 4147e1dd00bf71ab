"""A process beside the workers that contends and asks: sessions that hold, campaign and meet, and one that calls.

It also sends what has the workers do the same. Each of these is a thread; one that ends by an error ends the process.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

from chaos.app import orchestrator
from chaos.ballots import propose
from chaos.barriers import MUSTER, ON_DEATH, Join, meet
from chaos.contended import CHIEF, ELECTION, KEEPER, KINDS, Command, Hold, hold, write_while_held
from chaos.lanes import send_burst
from chaos.questions import ASKER, Wonder, ask_somehow
from chaos.witness import AWAY
from orchestrator import AgentDown, LeaseTaken, OwnerGone

logger = logging.getLogger(__name__)

#: Pauses between two acts of one thread, in seconds.
_PAUSES_S = (0.05, 0.5)

#: Between two rounds of messages to the workers.
_SEND_EVERY_S = 0.7

#: Share of the rounds in which a message joins a barrier: rare enough for parties to die while they wait.
_JOINS = 0.6

#: Between a decision and the next proposal.
_PROPOSE_EVERY_S = 1.0

#: For how long a candidate waits, and leads.
_CAMPAIGN_S = 4.0
_LEADS_S = (0.5, 3.0)


class Contender:
    """The threads of one process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._stopped = threading.Event()
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Go on until SIGTERM."""
        acts = {"hold": self._hold, "lead": self._lead, "ask": self._ask, "propose": self._propose, "send": self._send}
        acts |= {f"meet at {name}": partial(self._meet, name) for name in ON_DEATH}
        threads = [
            threading.Thread(target=self._repeat, args=(act, random.Random(f"{name} {self._seed}")), name=name)
            for name, act in acts.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # In slices, so that the signal is taken.
            while thread.is_alive():
                thread.join(0.5)

    def _repeat(self, act: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    act(rng)
                except (OwnerGone, AgentDown, *AWAY):
                    # A session that was declared dead is replaced by another one.
                    self._pause(rng)
        except BaseException:
            logger.exception("the thread that does %s has ended", threading.current_thread().name)
            os._exit(70)

    def _pause(self, rng: random.Random) -> None:
        self._stopped.wait(rng.uniform(*_PAUSES_S))

    def _hold(self, rng: random.Random) -> None:
        with orchestrator.monitors.session():
            while not self._stopped.is_set():
                hold(orchestrator, rng.choice(KINDS), wait_s=2.0, nap_s=rng.uniform(0.05, 0.3))
                self._pause(rng)

    def _lead(self, rng: random.Random) -> None:
        election = orchestrator.election(ELECTION)
        with orchestrator.monitors.session():
            while not self._stopped.is_set():
                try:
                    with election.campaign(_CAMPAIGN_S) as led:
                        write_while_held("election", led, rng.uniform(*_LEADS_S))
                except LeaseTaken:
                    continue
                self._pause(rng)

    def _meet(self, barrier: str, rng: random.Random) -> None:
        with orchestrator.monitors.session():
            while not self._stopped.is_set():
                meet(orchestrator, barrier, f"process-{os.getpid()}")
                self._pause(rng)

    def _ask(self, rng: random.Random) -> None:
        ask_somehow(orchestrator, rng)
        self._pause(rng)

    def _propose(self, rng: random.Random) -> None:
        propose(orchestrator, rng)
        self._stopped.wait(_PROPOSE_EVERY_S)

    def _send(self, rng: random.Random) -> None:
        self._stopped.wait(_SEND_EVERY_S)
        orchestrator.send(KEEPER, Hold(kind=rng.choice(KINDS), wait_s=0.3, nap_s=rng.uniform(0.0, 0.03)))
        orchestrator.send(ASKER, Wonder(seed=rng.randrange(1 << 30)))
        if rng.random() < _JOINS:
            orchestrator.send(MUSTER, Join(barrier=rng.choice(list(ON_DEATH))))
        send_burst(orchestrator, rng)
        orchestrator.send(CHIEF, Command(nap_s=rng.choice((0.0, 0.01, 0.1))))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Contender(int(sys.argv[1])).run()
