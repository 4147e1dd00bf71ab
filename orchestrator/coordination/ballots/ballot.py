"""`Ballot`: what the proposer has in hand, and what finds ballots again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery import Celery

from orchestrator.coordination.ballots.backend import BallotsBackend, BallotState
from orchestrator.coordination.ballots.proposal import Proposals
from orchestrator.core.checks.text import is_text
from orchestrator.core.coordination.decision import LONGEST_WHY, Decision
from orchestrator.core.errors import InvalidPolicy, NotDecided, UnknownBallot
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.address import Directory
from orchestrator.sending.calls.call import check_timeout
from orchestrator.telemetry import emit, events


@named_arguments
class Ballot:
    """A ballot. Its methods raise :class:`UnknownBallot` if it is not kept any more, and :class:`BrokerUnavailable`.

    It is kept for a week after its decision.
    """

    def __init__(self, ballot_id: str, backend: Callable[[], BallotsBackend]) -> None:
        self.id = ballot_id
        self._backend = backend

    def __repr__(self) -> str:
        return f"<Ballot {self.id!r}>"

    def wait(self, timeout_s: float) -> Decision:
        """Wait for the decision, also while Redis is away.

        Raises:
            NotDecided: there is none after ``timeout_s`` seconds; the ballot goes on.
            InvalidPolicy: ``timeout_s`` is not a number above 0, at most a day.
        """
        seconds = check_timeout(timeout_s)
        decision = self._backend().wait(self.id, seconds)
        if decision is None:
            raise NotDecided(self.id, seconds)
        return decision

    def decision(self) -> Decision | None:
        """The decision; ``None`` while the ballot is open."""
        return self._backend().wait(self.id, 0)

    def state(self) -> BallotState:
        """The ballot as it is now."""
        state = self._backend().read(self.id)
        if state is None:
            raise UnknownBallot(self.id)
        return state

    def cancel(self, why: str = "") -> bool:
        """Decide that the proposal is rejected; returns whether this has decided it, and not something before.

        All voters are sent that decision. Those that have not voted yet may still be asked, for nothing.

        Raises:
            InvalidPolicy: ``why`` is no text of at most 200 characters.
        """
        if not is_text(why) or len(why) > LONGEST_WHY:
            raise InvalidPolicy("why", why, f"a text of at most {LONGEST_WHY} characters")
        return self._backend().cancel(self.id, why)


class Ballots:
    """The ballots of one app, which are where ``backend`` says at each use."""

    def __init__(self, app: Celery, directory: Directory, backend: Callable[[], BallotsBackend]) -> None:
        self._proposals = Proposals(app, directory)
        self._backend = backend

    def propose(
        self, message: object, voters: object, rule: object, timeout_s: float, silent: object, ballot_id: object
    ) -> Ballot:
        """See :meth:`orchestrator.app.Orchestrator.propose`."""
        request = self._proposals.request(message, voters, rule, timeout_s, silent, ballot_id)
        found = self._backend().propose(request)
        emit(events.BALLOT_PROPOSED, {"voters": len(request.voters)}, ballot=found, message=request.message)
        return Ballot(found, self._backend)

    def find(self, ballot_id: str) -> Ballot:
        """The ballot with that id.

        Raises:
            UnknownBallot: there is none, or it is not kept any more.
            BrokerUnavailable: Redis is away.
        """
        if not is_text(ballot_id) or self._backend().read(ballot_id) is None:
            raise UnknownBallot(ballot_id)
        return Ballot(ballot_id, self._backend)

    def list(self, limit: int) -> Sequence[BallotState]:
        """The ballots that were proposed last, the last one first."""
        return self._backend().list(limit)
