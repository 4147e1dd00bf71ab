"""The backend of ballots: Redis, or this process in eager mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.coordination.ballot import Silent
from orchestrator.core.coordination.ballot_rules import Threshold
from orchestrator.core.coordination.decision import Decision
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class AskedVoter:
    """A voter, and what it is sent."""

    name: str
    weight: int
    #: The proposal.
    copy: OutgoingMessage
    #: The message that brings the decision, which has no fields yet; ``None`` if the agent has no ``on_decision``.
    decision: OutgoingMessage | None


@dataclass(frozen=True, slots=True)
class BallotRequest:
    """A proposal, checked and addressed."""

    #: Empty if it is to be made up.
    id: str
    #: The name of the proposal's message, and its fields.
    message: str
    proposal: dict[str, Any]
    #: The rule, in words.
    rule: str
    threshold: Threshold
    silent_as: Silent
    timeout_s: float
    voters: tuple[AskedVoter, ...]
    #: Of what is proposed to whom by which rule.
    fingerprint: str


@dataclass(frozen=True, slots=True)
class BallotState:
    """A ballot as it is now. Votes are counted by their weights, which are 1 unless the rule is ``Weighted``."""

    id: str
    #: The name of the proposal's message.
    message: str
    #: ``open``, ``accepted`` or ``rejected``.
    state: str
    approved: int
    rejected: int
    silent: int
    #: The weight of all voters.
    of: int
    #: The rule, in words.
    rule: str
    #: In seconds since 1970, by the clock of Redis.
    proposed_s: float
    #: When it times out, or would have.
    ends_s: float
    decided_s: float | None = None


class BallotsBackend(Protocol):
    """Ballots by their ids. Every method raises ``BrokerUnavailable`` while Redis cannot be reached."""

    def propose(self, request: BallotRequest) -> str:
        """Put a proposal to its voters; returns the ballot's id.

        Raises:
            BallotExists: there is another ballot with that id.
            OutdatedWorker: a living worker of a voter would not count its vote.
        """

    def wait(self, ballot_id: str, timeout_s: float) -> Decision | None:
        """Wait for the decision; ``None`` if there is none in time.

        Raises:
            UnknownBallot: there is no such ballot.
        """

    def cancel(self, ballot_id: str, why: str) -> bool:
        """Decide that the proposal is rejected; returns whether that has decided it. Raises as :meth:`wait`."""

    def read(self, ballot_id: str) -> BallotState | None:
        """One ballot; ``None`` if it is not kept any more."""

    def list(self, limit: int) -> Sequence[BallotState]:
        """The ballots that were proposed last, the last one first."""
