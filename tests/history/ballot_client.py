"""A process that proposes, reads and cancels ballots, its own and others', and may be killed at any moment.

``python -m tests.history.ballot_client URL FILE NAME PROXY``; see ``client.py``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from time import monotonic

from orchestrator import Ballot, Majority, NotDecided, Orchestrator, Unanimous
from tests.history.client import Client
from tests.history.voters_app import VOTERS, Move, make, what


class BallotClient(Client):
    """One process."""

    def make_orchestrator(self, url: str) -> Orchestrator:
        """An app that knows the voters."""
        return make(url)

    def once(self) -> None:
        """Propose something, or read or cancel what somebody has proposed."""
        coordination = self.orchestrator.coordination
        recent = coordination.ballots(limit=4)
        act = random.choice(("propose", "read", "read", "cancel")) if recent else "propose"
        ballot = self.propose() if act == "propose" else coordination.ballot(random.choice(recent).id)
        if act == "cancel":
            why = f"{self.name} {random.random()}"
            number = self.call(ballot.id, "cancel", why)
            self.note(number=number, result=ballot.cancel(why))
        self.read(ballot, random.choice((0.01, 0.3)))

    def propose(self) -> Ballot:
        """Propose what others may propose at the same moment, under the same id."""
        n = int(monotonic() * 5)
        rule = Unanimous() if n % 2 else Majority()
        timeout_s = 30.0 if n % 3 else 0.5
        return self.orchestrator.propose(Move(n=n), VOTERS, rule, timeout_s=timeout_s, id=f"ballot {n}")

    def read(self, ballot: Ballot, wait_s: float) -> None:
        """Wait for the decision; it may be open after that."""
        number = self.call(ballot.id, "read")
        try:
            result: object = what(ballot.wait(wait_s))
        except NotDecided:
            result = "open"
        self.note(number=number, result=result)


if __name__ == "__main__":
    url, file, name, through = sys.argv[1:]
    BallotClient(url, Path(file), name, through).run()
