"""Elections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.agents.singleton import SINGLETON
from orchestrator.coordination.checks import checked_name, checked_wait_s
from orchestrator.coordination.lease import Held
from orchestrator.coordination.named_leases import NamedLeases, Wanted
from orchestrator.coordination.not_entered import NotEntered
from orchestrator.core.checks.numbers import check_number, check_whole_number
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.worker.execution.owner import Owner

#: Scores beyond this one would not be told apart exactly.
_MOST_SCORE = 1e15

#: Longest time that :meth:`Election.observe` may wait.
_LONGEST_S = 86_400

#: Largest number of a term: Redis' scripts have no whole numbers above.
_LARGEST = 2**53


@named_arguments
class Leadership(Held):
    """A term that this owner leads, until it resigns, its block or attempt ends, or it dies."""

    _reason = "resigned"

    @property
    def term(self) -> Term:
        """The term, as others see it while it goes on."""
        held = self._held
        return Term(held.name, held.fence, held.owner.id, held.since_ms / 1000)

    @property
    def number(self) -> int:
        """The term's number, which is its fencing token."""
        return self.fence

    def resign(self, to: str | None = None) -> bool:
        """End the term, so that the next candidate leads; returns whether it was still this owner's.

        ``to`` is the candidate that shall lead instead of the next one: an incarnation or session, as
        :meth:`Election.candidates` names them.

        Raises:
            NoCandidate: ``to`` does not wait to lead; this term goes on.
            InvalidPolicy: ``to`` is no name of an incarnation or session.
            BrokerUnavailable: Redis is away; with ``to``, this term goes on.
        """
        if to is None:
            return self.release()
        candidate = checked_name(to, "to")
        if self._leases is None or self._is_released or self._held.owner.is_inherited():
            return False
        self._is_released = True
        try:
            return self._leases.hand_over(self._held, candidate)
        except BaseException:
            self._is_released = False
            raise


@named_arguments
class Election(NotEntered):
    """One leader at a time under a name: of the candidates the one with the highest score, then who came first."""

    def __init__(self, leases: NamedLeases, owner: Callable[[str], Owner], name: str) -> None:
        self.name = name
        self._leases = leases
        self._owner = owner

    def campaign(self, wait_s: float = 0.0, *, score: float = 0.0) -> Leadership:
        """Wait to lead; returns the leadership, which a ``with`` ends.

        ``score`` says how fit this candidate is, from -1e15 to 1e15. When a term ends, the highest of those who wait
        leads, and of equal ones who came first; nobody is deposed for a higher one.

        Raises:
            LeaseTaken: another led for the whole time.
            LeaseHeld: this owner leads already.
            InvalidPolicy: it is the election of a singleton, for which its workers campaign; or ``wait_s`` or ``score``
                is out of range.
            NoOwner, OwnerGone, BrokerUnavailable: as :meth:`Held.acquire`.
        """
        if self.name.startswith(SINGLETON):
            # Its mailbox would be served by nobody.
            allowed = (
                f"an election of your own: one that begins with {SINGLETON!r} is led by the workers that host the agent"
            )
            raise InvalidPolicy("election", self.name, allowed)
        checked, fitness = checked_wait_s(wait_s), check_number("score", score, -_MOST_SCORE, _MOST_SCORE)

        def ask() -> tuple[NamedLeases, Wanted]:
            return self._leases, Wanted(Kind.ELECTION, self.name, self._owner("leadership"), checked, score=fitness)

        return Leadership(ask).acquire()

    def candidates(self) -> Sequence[str]:
        """The incarnations and sessions that wait to lead, the next one first; of more than 100 the first ones.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._leases.candidates(self.name)

    def leader(self) -> Term | None:
        """The term that goes on; ``None`` if nobody leads.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        term = self.last_term()
        return term if term is not None and not term.ended else None

    def last_term(self) -> Term | None:
        """The last term, with the reason of its end if it has ended; ``None`` if there was none for a week.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._leases.last_term(self.name)

    def observe(self, after: Term | Leadership | None = None, timeout_s: float = 0.0) -> Term | None:
        """Wait for what comes after a term: its end, with the reason, or, if it had ended, the next one's begin.

        Without ``after``: the term that goes on, or the next one. ``None`` if nothing has changed in time. No term is
        passed over, unless a hundred have ended meanwhile.

        Raises:
            InvalidPolicy: ``after`` is no term of this election, or ``timeout_s`` is out of range.
            BrokerUnavailable: Redis was away for the whole time.
        """
        timeout_s = check_number("timeout_s", timeout_s, 0, _LONGEST_S)
        seen = after.term if isinstance(after, Leadership) else after
        if seen is not None and (not isinstance(seen, Term) or seen.election != self.name):
            raise InvalidPolicy("after", after, f"a term of the election {self.name!r}, or None")
        if seen is not None:
            check_whole_number("after.number", seen.number, 0, _LARGEST)
        return self._leases.next_term(self.name, seen, timeout_s)

    def _how_to_enter(self) -> str:
        return f"with orchestrator.election({self.name!r}).campaign(wait_s=…) as led:"

    def __repr__(self) -> str:
        return f"<Election {self.name!r}>"
