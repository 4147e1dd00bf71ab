"""Elections."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.coordination.checks import checked_wait_s
from orchestrator.coordination.lease import Held
from orchestrator.coordination.named_leases import NamedLeases, Wanted
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.lease import Kind
from orchestrator.core.numbers import check_number
from orchestrator.core.term import Term
from orchestrator.worker.owner import Owner

#: Longest time that :meth:`Election.observe` may wait.
_LONGEST_S = 86_400


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

    def resign(self) -> bool:
        """End the term, so that the next candidate leads; returns whether it was still this owner's."""
        return self.release()


class Election:
    """One leader at a time under a name. Candidates lead in the order in which they began to campaign."""

    def __init__(self, leases: NamedLeases, owner: Callable[[str], Owner], name: str) -> None:
        self.name = name
        self._leases = leases
        self._owner = owner

    def campaign(self, wait_s: float = 0.0) -> Leadership:
        """Wait to lead; returns the leadership, which a ``with`` ends.

        Raises:
            LeaseTaken: another led for the whole time.
            LeaseHeld: this owner leads already.
            NoOwner, OwnerGone, InvalidPolicy, BrokerUnavailable: as :meth:`Held.acquire`.
        """
        checked = checked_wait_s(wait_s)

        def ask() -> tuple[NamedLeases, Wanted]:
            return self._leases, Wanted(Kind.ELECTION, self.name, self._owner("leadership"), checked)

        return Leadership(ask).acquire()

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
        return self._leases.next_term(self.name, seen, timeout_s)
