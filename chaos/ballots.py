"""What is voted on under chaos: voters in the workers, and proposals from beside them."""

from __future__ import annotations

import random
import time
from typing import Any, Literal
from uuid import uuid4

from chaos.witness import witness
from orchestrator import (
    Agent,
    Context,
    Decision,
    Majority,
    Message,
    NotDecided,
    Orchestrator,
    Quorum,
    Retry,
    Unanimous,
    Vote,
    handles,
    votes,
)

#: The voters, and their mailboxes.
VOTERS = ("voter-a", "voter-b", "voter-c")

#: When who has not voted is silent, and for how long the proposer waits, in seconds.
_TIMEOUT_S, _WAIT_S = 4.0, 8.0

#: Shares of the votes that approve, and of the voters that fail.
_APPROVES, _FAILS = 0.6, 0.08


class Motion(Message):
    """A proposal, and what each voter says to it: ``approve``, ``reject`` or ``fail``."""

    says: dict[str, str]
    nap_s: float


class Ping(Message):
    """Never sent: an agent handles at least one message."""


class Voter(Agent):
    """Votes as it is told to, and is told the decision."""

    retry = Retry(max_retries=0)

    @votes(Motion)
    def vote(self, proposal: Motion, context: Context) -> Vote:
        """Nap, and vote."""
        time.sleep(proposal.nap_s)
        match proposal.says[self.name]:
            case "fail":
                raise ValueError("this voter cannot say")
            case "approve":
                return Vote.approve()
            case _:
                return Vote.reject("as told")

    @handles(Ping)
    def ping(self, message: Ping) -> None:
        """Do nothing."""

    def on_decision(self, decision: Decision, context: Context) -> None:
        """Write the decision to the witness."""
        witness().write("told of", node=context.worker, voter=self.name, delivery=context.id, **fields_of(decision))


class VoterA(Voter):
    """The first."""

    name = VOTERS[0]


class VoterB(Voter):
    """The second."""

    name = VOTERS[1]


class VoterC(Voter):
    """The third."""

    name = VOTERS[2]


def fields_of(decision: Decision) -> dict[str, Any]:
    """What has to be the same for everybody who is told of a decision."""
    said = {name: vote.approves for name, vote in sorted(decision.votes.items())}
    return {"ballot": decision.ballot, "accepted": decision.accepted, "votes": said}


def propose(orchestrator: Orchestrator, rng: random.Random) -> None:
    """Propose, and wait for the decision."""
    says = {voter: _drawn(rng) for voter in VOTERS}
    rule: Any = rng.choice((Majority(), Unanimous(), Quorum(2)))
    silent: Literal["abstain", "reject"] = rng.choice(("abstain", "reject"))
    ballot_id = uuid4().hex
    witness().write("proposing", ballot=ballot_id, says=says, rule=type(rule).__name__, silent=silent)
    ballot = orchestrator.propose(
        Motion(says=says, nap_s=rng.choice((0.0, 0.01, 0.1))),
        VOTERS,
        rule,
        timeout_s=_TIMEOUT_S,
        silent=silent,
        id=ballot_id,
    )
    witness().write("proposed", ballot=ballot_id)
    try:
        witness().write("decided", **fields_of(ballot.wait(_WAIT_S)))
    except NotDecided:
        witness().write("undecided", ballot=ballot_id)


def _drawn(rng: random.Random) -> str:
    if rng.random() < _FAILS:
        return "fail"
    return "approve" if rng.random() < _APPROVES else "reject"
