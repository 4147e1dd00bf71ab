"""The interface to permits under names, which Redis and eager mode implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.clock import to_ms
from orchestrator.core.coordination.lease import HeldPermit, Kind, Request, Status
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidPolicy, LeaseHeld, LeaseTaken, OrchestratorError, OwnerGone, PoolEmpty
from orchestrator.worker.execution.owner import Owner


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a permit, with its owner."""

    kind: Kind
    name: str
    owner: Owner
    wait_s: float
    limit_ms: int = 0
    reentrant: bool = False
    permits: int = 1
    resources: tuple[str, ...] = ()
    #: Of a candidate: the highest one that waits is granted next.
    score: float = 0.0

    def request(self, token: str, left_s: float) -> Request:
        """The request, of which ``left_s`` seconds are left to wait."""
        owner, entry = self.owner.id, self.owner.entry
        own = (self.limit_ms, self.reentrant, self.permits, self.resources, self.score)
        return Request(token, owner, entry, to_ms(left_s), *own)

    def refusal(self, status: Status, *, holder: str = "", stored: str = "") -> OrchestratorError:
        """The error for a request that was neither granted nor put into the line."""
        kind = self.kind.value
        if status is Status.HELD:
            return LeaseHeld(kind, self.name, self.owner.id)
        if status is Status.GONE:
            return OwnerGone(self.owner.id)
        is_pool = self.kind is Kind.POOL
        if status is Status.TAKEN:
            return PoolEmpty(self.name, self.wait_s) if is_pool else LeaseTaken(kind, self.name, self.wait_s, holder)
        asked: tuple[str, object] = ("resources", list(self.resources)) if is_pool else ("permits", self.permits)
        return InvalidPolicy(*asked, f"{stored}, with which {kind} {self.name!r} is in use")


@dataclass(frozen=True, slots=True)
class Grant:
    """A permit that was granted."""

    kind: Kind
    name: str
    owner: Owner
    token: str
    fence: int
    #: When it was granted, in ms by the clock of Redis.
    since_ms: int
    resource: str = ""


@dataclass(frozen=True, slots=True)
class NameState:
    """A name as it is now."""

    kind: Kind
    name: str
    #: The last fencing token.
    fence: int
    permits: int
    resources: tuple[str, ...]
    #: Number of requests in the line.
    waiting: int
    #: The oldest first; of more than a hundred, some.
    holders: Sequence[HeldPermit] = field(default_factory=tuple)


class NamedLeases(ABC):
    """Permits under names. Every method raises ``BrokerUnavailable`` while Redis cannot be reached."""

    @abstractmethod
    def acquire(self, wanted: Wanted) -> Grant:
        """Wait for a permit.

        Raises:
            LeaseTaken, PoolEmpty: there was none in time.
            LeaseHeld: the owner holds it already.
            OwnerGone: the owner was declared dead, or has ended.
            InvalidPolicy: the name is in use with other permits or resources.
        """

    @abstractmethod
    def release(self, grant: Grant, reason: str = "released") -> bool:
        """Give a permit back; returns whether it was still held, also if the first answer was lost.

        Where Redis is away that is done later, and the answer is ``False``.
        """

    @abstractmethod
    def hand_over(self, grant: Grant, candidate: str) -> bool:
        """End a term in favour of a candidate that waits; ``False`` if it was not led any more.

        Raises:
            NoCandidate: that one does not wait; the term goes on.
        """

    @abstractmethod
    def candidates(self, name: str) -> Sequence[str]:
        """The owners that wait to lead, the next one first; at most 100."""

    @abstractmethod
    def is_held(self, grant: Grant) -> bool:
        """Whether a permit is still held."""

    @abstractmethod
    def check_in(self, name: str, resource: str, owner: Owner) -> bool:
        """Give a resource of a pool back; ``False`` if the owner does not hold it."""

    @abstractmethod
    def read(self, kind: Kind, name: str) -> NameState | None:
        """One name; ``None`` if it was not used for a week."""

    @abstractmethod
    def list(self, kind: Kind, limit: int) -> Sequence[NameState]:
        """The names of a kind that were used last, the last one first."""

    @abstractmethod
    def next_term(self, name: str, after: Term | None, timeout_s: float) -> Term | None:
        """Wait for a change of a term that the caller has seen; ``None`` if none came in time."""

    @abstractmethod
    def last_term(self, name: str) -> Term | None:
        """The last term as it is now; ``None`` if there was none for a week."""
