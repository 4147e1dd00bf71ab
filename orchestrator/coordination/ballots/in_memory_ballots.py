"""Ballots of eager mode: all voters are asked, one after the other, before `propose` returns; the rule counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from orchestrator.coordination.ballots.backend import BallotRequest, BallotState
from orchestrator.core.clock import now_ms
from orchestrator.core.coordination.ballot import Tally, vote_in
from orchestrator.core.coordination.decision import Decision, Vote
from orchestrator.core.errors import BallotExists, UnknownBallot
from orchestrator.sending.backend import Backend
from orchestrator.sending.broadcast import BroadcastRequest, Strategy
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events


@dataclass(frozen=True, slots=True)
class _Ballot:
    request: BallotRequest
    tally: Tally
    proposed_ms: int


class InMemoryBallots:
    """See :class:`orchestrator.coordination.ballots.backend.BallotsBackend`.

    ``deliver`` runs a message past the flow control of its agent.
    """

    def __init__(self, backend: Backend, deliver: Callable[[OutgoingMessage], object]) -> None:
        self._backend = backend
        self._deliver = deliver
        self._ballots: dict[str, _Ballot] = {}

    def propose(self, request: BallotRequest) -> str:
        """Have all voters vote, and decide."""
        ballot_id = request.id or uuid4().hex
        known = self._ballots.get(ballot_id)
        if known is not None:
            if known.request.fingerprint != request.fingerprint:
                raise BallotExists(ballot_id)
            return ballot_id
        weights = {voter.name: voter.weight for voter in request.voters}
        tally = Tally(request.threshold, request.silent_as, weights)
        self._ballots[ballot_id] = _Ballot(request, tally, now_ms())
        copies = [voter.copy for voter in request.voters]
        refused = self._backend.broadcast(BroadcastRequest(ballot_id, Strategy.BEST_EFFORT, copies))
        for place, voter in enumerate(request.voters):
            outcome = None if place in refused else self._backend.outcome(voter.copy.id, 0)
            vote = refused[place].value if outcome is None else vote_in(outcome)
            self._count(ballot_id, voter.name, vote)
        return ballot_id

    def _count(self, ballot_id: str, voter: str, vote: Vote | str) -> None:
        ballot = self._ballots[ballot_id]
        was_open = ballot.tally.decided is None
        if ballot.tally.count(voter, vote, now_ms()):
            said, why = ("silent", vote) if isinstance(vote, str) else (_word(vote), vote.why)
            message = ballot.request.message
            emit(events.BALLOT_VOTED, ballot=ballot_id, message=message, voter=voter, vote=said, why=why)
        if was_open and ballot.tally.decided is not None:
            self._announce(ballot_id, ballot)

    def _announce(self, ballot_id: str, ballot: _Ballot) -> None:
        request, tally = ballot.request, ballot.tally
        decided = tally.decision()
        emit(
            events.BALLOT_DECIDED,
            {"approved": tally.approved, "rejected": tally.rejected, "silent": tally.silent, "of": tally.weight},
            ballot=ballot_id,
            message=request.message,
            decision="accepted" if tally.accepted else "rejected",
            how=decided["how"],
        )
        fields = {
            "ballot": ballot_id,
            "message": request.message,
            "proposal": request.proposal,
            "rule": request.rule,
            "decided": decided,
        }
        for voter in request.voters:
            if voter.decision is not None:
                self._deliver(replace(voter.decision, args=[fields]))

    def wait(self, ballot_id: str, timeout_s: float) -> Decision | None:
        """The decision, which is there unless a voter asks for it that is being asked itself."""
        ballot = self._ballots.get(ballot_id)
        if ballot is None:
            raise UnknownBallot(ballot_id)
        request = ballot.request
        if ballot.tally.decided is None:
            return None
        return Decision.from_wire(ballot_id, request.message, request.proposal, request.rule, ballot.tally.decision())

    def cancel(self, ballot_id: str, why: str) -> bool:
        """Reject the proposal, if it is not decided: a voter that is asked may do so."""
        ballot = self._ballots.get(ballot_id)
        if ballot is None:
            raise UnknownBallot(ballot_id)
        has_decided = ballot.tally.cancel(why, now_ms())
        if has_decided:
            self._announce(ballot_id, ballot)
        return has_decided

    def read(self, ballot_id: str) -> BallotState | None:
        """One ballot."""
        ballot = self._ballots.get(ballot_id)
        if ballot is None:
            return None
        request, tally, proposed_s = ballot.request, ballot.tally, ballot.proposed_ms / 1000
        state, decided_s = "open", None
        if tally.decided is not None:
            state, decided_s = "accepted" if tally.accepted else "rejected", tally.decided_ms / 1000
        counts = tally.approved, tally.rejected, tally.silent, tally.weight
        times = proposed_s, proposed_s + request.timeout_s, decided_s
        return BallotState(ballot_id, request.message, state, *counts, request.rule, *times)

    def list(self, limit: int) -> Sequence[BallotState]:
        """The last ones first."""
        states = [self.read(ballot_id) for ballot_id in list(reversed(self._ballots))[:limit]]
        return [state for state in states if state is not None]


def _word(vote: Vote) -> str:
    return "approve" if vote.approves else "reject"
