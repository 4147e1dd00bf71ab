"""The rule of ballots: whose votes are counted, and when they decide.

``transport/redis/lua/includes/ballot_votes.lua`` is the same rule over Redis, with the same names; one state machine
drives both. Eager mode runs by this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.coordination.ballot_rules import Threshold
from orchestrator.core.coordination.decision import How, Vote
from orchestrator.core.deliveries.outcome import Dead, Handled, Outcome, Reason, kind

#: Most bytes of all reasons of one ballot's votes, because each voter gets all of them. Reasons beyond are left out.
MOST_WHY_BYTES: Final = 16_384

#: Why a vote is missing that was neither cast nor found to be missing before the decision.
OPEN_AT: Final = {How.VOTES: "not needed", How.TIMEOUT: "timeout", How.CANCELLED: "cancelled"}


class Silent(StrEnum):
    """The way in which a voter without a vote counts."""

    #: As if it were no voter.
    ABSTAIN = "abstain"
    REJECT = "reject"


def vote_in(outcome: Outcome) -> Vote | str:
    """The vote that a voter's copy of the proposal came to, or why there is none."""
    match outcome:
        case Handled(result, _):
            return Vote.from_wire(result) or "no vote"
        case Dead(Reason.DEADLINE, _, _, _):
            return OPEN_AT[How.TIMEOUT]
        case Dead(_, error, _, _) if error.startswith("InvalidResult:"):
            return "dead: returned no Vote"
        case Dead(reason, _, _, _):
            return f"dead: {reason}"
        case _:
            return kind(outcome)


@dataclass(slots=True)
class Tally:
    """The votes of a ballot, until and after its decision."""

    threshold: Threshold
    silent_as: Silent
    #: By voter, what its vote counts.
    weights: Mapping[str, int]
    #: What was counted: a vote, or why there is none.
    counted: dict[str, Vote | str] = field(default_factory=dict)
    #: Weights.
    approved: int = 0
    rejected: int = 0
    silent: int = 0
    why_bytes: int = 0
    decided: How | None = None
    accepted: bool = False
    #: Who has cancelled it, or why.
    by: str = ""
    decided_ms: int = 0

    @property
    def weight(self) -> int:
        """The weight of all voters."""
        return sum(self.weights.values())

    def count(self, voter: str, vote: Vote | str, now_ms: int) -> bool:
        """Count a vote, or why there is none; returns whether it was counted: a late or a second one is not."""
        if self.decided is not None or voter in self.counted or voter not in self.weights:
            return False
        weight = self.weights[voter]
        if isinstance(vote, str):
            self.counted[voter] = vote
            self.silent += weight
        else:
            size = len(vote.why.encode())
            if self.why_bytes + size > MOST_WHY_BYTES:
                vote, size = Vote(vote.approves), 0
            self.why_bytes += size
            self.counted[voter] = vote
            if vote.approves:
                self.approved += weight
            else:
                self.rejected += weight
        against = self._against
        open_ = self.weight - self.approved - self.rejected - self.silent
        # It is decided once neither the worst nor the best of what is left can change it.
        if self.threshold.is_met(self.approved, self.approved + against + open_):
            self._decide(How.VOTES, accepted=True, now_ms=now_ms)
        elif not self.threshold.is_met(self.approved + open_, self.approved + open_ + against):
            self._decide(How.VOTES, accepted=False, now_ms=now_ms)
        return True

    @property
    def _against(self) -> int:
        return self.rejected + (self.silent if self.silent_as is Silent.REJECT else 0)

    def time_out(self, now_ms: int) -> bool:
        """Its time has come: who has not voted is silent. Returns whether that has decided it."""
        if self.decided is not None:
            return False
        self.silent = self.weight - self.approved - self.rejected
        self._decide(
            How.TIMEOUT, accepted=self.threshold.is_met(self.approved, self.approved + self._against), now_ms=now_ms
        )
        return True

    def cancel(self, by: str, now_ms: int) -> bool:
        """Reject the proposal without further votes. Returns whether that has decided it."""
        if self.decided is not None:
            return False
        self.by = by
        self._decide(How.CANCELLED, accepted=False, now_ms=now_ms)
        return True

    def _decide(self, how: How, *, accepted: bool, now_ms: int) -> None:
        self.decided, self.accepted, self.decided_ms = how, accepted, now_ms

    def decision(self) -> dict[str, Any]:
        """The data of the decision, once there is one; see :meth:`Decision.from_wire`."""
        assert self.decided is not None  # noqa: S101
        votes = {name: [vote.approves, vote.why] for name, vote in self.counted.items() if isinstance(vote, Vote)}
        silent = {name: why for name, why in self.counted.items() if isinstance(why, str)}
        left = {name: OPEN_AT[self.decided] for name in self.weights if name not in self.counted}
        return {
            "accepted": self.accepted,
            "how": self.decided.value,
            "by": self.by,
            "decided_ms": self.decided_ms,
            "approved": self.approved,
            "rejected": self.rejected,
            "silent": self.silent,
            "weight": self.weight,
            "votes": votes,
            "missing": {**silent, **left},
        }
