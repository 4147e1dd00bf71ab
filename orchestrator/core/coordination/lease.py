"""The rule of named leases, elections, semaphores and pools: who holds a permit, and who gets the next one.

All four are one thing: permits under a name, a line of those who wait, and a fencing token that grows with each grant.
``coordination/lua/includes/named_leases.lua`` is the same rule over Redis, with the same names; one state machine
drives both. Eager mode runs by this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

#: For how long a permit that was granted to somebody in the line waits to be taken, before it goes to the next. Who has
#: slept takes it by reading what wakes it.
TAKE_MS: Final = 5000

#: For how much longer than it was going to wait a ticket stays in the line, if its owner has not taken it out.
GRACE_MS: Final = 2000

#: Why a permit has ended that was granted to somebody in the line who has not taken it.
NOT_TAKEN: Final = "not taken"

#: Why a permit has ended that was held for as long as it was going to be.
LIMIT: Final = "limit"

#: Ended terms that an election remembers.
TERMS: Final = 100

#: Characters at the beginning of a call's token that name its caller.
CALLER: Final = 16


class Kind(StrEnum):
    """The kind of a name's permits."""

    LEASE = "lease"
    ELECTION = "election"
    SEMAPHORE = "semaphore"
    POOL = "pool"


#: One permit, which nobody holds twice.
SINGLE: Final = (Kind.LEASE, Kind.ELECTION)


class Life(StrEnum):
    """Whether an owner has its incarnation's lease."""

    ALIVE = "alive"
    #: Declared dead; what it held is being released.
    DYING = "dying"
    GONE = "gone"


class Owners(Protocol):
    """The owners, as far as the rule has to know of them."""

    def life(self, owner: str) -> Life: ...
    def has_entry(self, owner: str, entry: str) -> bool:
        """Whether the attempt with this entry still runs."""
        ...

    def reason(self, owner: str) -> str:
        """The reason of a dying owner's death."""
        ...


class Status(StrEnum):
    """The result of a request."""

    GRANTED = "granted"
    WAITING = "waiting"
    #: No permit is free, and the request does not wait.
    TAKEN = "taken"
    #: The same owner holds it.
    HELD = "held"
    #: The owner has no lease.
    GONE = "gone"
    #: Others use the name with another number of permits, or other resources.
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a permit; repeated with the same token, it is the same request."""

    token: str
    owner: str
    #: The entry of the attempt that asks; empty for an owner that is no handler.
    entry: str = ""
    wait_ms: int = 0
    limit_ms: int = 0
    reentrant: bool = False
    permits: int = 1
    resources: tuple[str, ...] = ()
    #: Of a candidate: the highest one that waits is granted next.
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request."""

    status: Status
    #: The fencing token of a grant; of what is taken, its holder's.
    fence: int = 0
    since_ms: int = 0
    resource: str = ""
    #: Who holds it, if it is taken.
    owner: str = ""
    #: Tickets before this one.
    ahead: int = 0
    #: The permits, or the resources as JSON, that the name is in use with.
    stored: str = ""


@dataclass(slots=True)
class HeldPermit:
    """A permit that is held."""

    owner: str
    entry: str
    fence: int
    since_ms: int
    #: The requests that hold it; more than one where it was entered again.
    tokens: list[str]
    resource: str = ""
    #: When its time is over; 0 for never.
    until_ms: int = 0
    #: Until when it has to be taken; 0 once it is.
    take_by_ms: int = 0


@dataclass(slots=True)
class Ticket:
    """A place in the line."""

    owner: str
    entry: str
    wait_until_ms: int
    limit_ms: int
    score: float = 0.0


@dataclass(slots=True)
class TermRecord:
    """A term of an election; its number is the fencing token."""

    number: int
    leader: str
    since_ms: int
    ended_ms: int = 0
    reason: str = ""


@dataclass(slots=True)
class NamedLease:
    """The permits of one name."""

    kind: Kind
    fence: int = 0
    permits: int = 0
    resources: tuple[str, ...] = ()
    free_resources: list[str] = field(default_factory=list)
    holders: dict[str, HeldPermit] = field(default_factory=dict)
    line: dict[str, Ticket] = field(default_factory=dict)
    terms: list[TermRecord] = field(default_factory=list)
    #: The request whose permit was handed over last.
    handed_over: str = ""
    #: The last call of each caller that has ended a permit, of any name.
    last_calls: dict[str, str] = field(default_factory=dict)

    # -- asking

    def acquire(self, request: Request, now_ms: int, owners: Owners) -> Reply:
        """Grant a permit, or give the request its place in the line."""
        if owners.life(request.owner) is not Life.ALIVE:
            return Reply(Status.GONE)
        if not self._agree(request, now_ms, owners):
            return Reply(Status.DIFFERS, stored=self._stored())
        if self.kind in SINGLE or not self._has_free():
            self._end_those_over(now_ms, owners)
        found = self._holder_of(request.token)
        if found is None and self.kind in SINGLE and (held := self._held_by(request)) is not None:
            self.line.pop(request.token, None)
            if not request.reentrant:
                return Reply(Status.HELD)
            held.tokens.append(request.token)
            found = held
        if found is None:
            self._grant_next(now_ms, owners)
            found = self._holder_of(request.token)
        if found is None and request.token not in self.line and not self.line and self._has_free():
            found = self._grant(request.token, request.owner, request.entry, request.limit_ms, now_ms)
        if found is not None:
            found.take_by_ms = 0
            return Reply(Status.GRANTED, found.fence, found.since_ms, found.resource)
        if request.wait_ms <= 0:
            self.line.pop(request.token, None)
            holder = self._oldest()
            return Reply(Status.TAKEN, holder.fence, holder.since_ms, owner=holder.owner)
        new = Ticket(request.owner, request.entry, 0, request.limit_ms, request.score)
        ticket = self.line.setdefault(request.token, new)
        ticket.wait_until_ms = now_ms + request.wait_ms + GRACE_MS
        return Reply(Status.WAITING, ahead=self.waiting().index(request.token))

    def take(self, token: str) -> None:
        """A request that slept has read that it was granted."""
        if (found := self._holder_of(token)) is not None:
            found.take_by_ms = 0

    def waiting(self) -> list[str]:
        """The line: who is granted next comes first, by score, and of equal ones who came first."""
        return sorted(self.line, key=lambda token: -self.line[token].score)

    def hand_over(self, token: str, to: str, now_ms: int, owners: Owners) -> bool:
        """End a permit in favour of the first request of an owner that waits; ``False``, and no change, without one.

        A repeated call, whose first answer was lost, returns ``True`` again.
        """
        found = self._holder_of(token)
        if found is None:
            return token == self.handed_over
        next_token = next((one for one in self.waiting() if self._waits(one, now_ms, owners, of=to)), None)
        if next_token is None:
            return False
        self._end(found, "resigned", now_ms)
        self.handed_over = token
        self._grant_ticket(next_token, now_ms)
        return True

    def release(self, token: str, now_ms: int, owners: Owners, *, reason: str, call: str = "") -> bool:
        """Give a permit back, or leave the line; returns whether it was held. After its limit, it was not.

        A repeated ``call``, whose first answer was lost, returns ``True`` again.
        """
        self.line.pop(token, None)
        found = self._holder_of(token)
        if found is not None and self._is_past_limit(found, now_ms):
            self._end(found, LIMIT, now_ms)
            found = None
        if found is not None:
            if call:
                self.last_calls[call[:CALLER]] = call
            if len(found.tokens) > 1:
                found.tokens.remove(token)
                return True
            self._end(found, reason, now_ms)
        self._grant_next(now_ms, owners)
        return found is not None or self._is_repeated(call)

    def check_in(
        self, resource: str, owner: str, entry: str, now_ms: int, owners: Owners, *, call: str = ""
    ) -> bool | None:
        """Give a resource back for its owner; ``None`` if it does not hold it, ``False`` if it did until its limit.

        A repeated ``call``, whose first answer was lost, returns ``True`` again, and ends nothing that the owner has
        checked out meanwhile.
        """
        if self._is_repeated(call):
            return True
        for holder in self.holders.values():
            if (holder.resource, holder.owner, holder.entry) == (resource, owner, entry):
                return self.release(holder.tokens[0], now_ms, owners, reason="released", call=call)
        return None

    def _is_repeated(self, call: str) -> bool:
        return bool(call) and self.last_calls.get(call[:CALLER]) == call

    def is_held(self, token: str, now_ms: int, owners: Owners) -> bool:
        """Whether a request's permit is still its own."""
        found = self._holder_of(token)
        return found is not None and not self._is_over(found, now_ms, owners)

    def owner_died(self, owner: str, reason: str, now_ms: int, owners: Owners) -> None:
        """Release what a dead owner held, and take it out of the line."""
        self.line = {token: ticket for token, ticket in self.line.items() if ticket.owner != owner}
        for holder in [one for one in self.holders.values() if one.owner == owner]:
            self._end(holder, reason, now_ms)
        self._grant_next(now_ms, owners)

    def end_over(self, now_ms: int, owners: Owners) -> None:
        """End what is over without anybody having released it."""
        self._end_those_over(now_ms, owners)
        self._grant_next(now_ms, owners)

    # -- permits

    def _agree(self, request: Request, now_ms: int, owners: Owners) -> bool:
        """Whether the request counts the permits as all others do; the first of them says how many there are."""
        if (request.permits, request.resources) == (self.permits, self.resources):
            return True
        if self.permits and (self.holders or self.line):
            # Permits and requests that are over do not keep the name from another number of permits.
            self.end_over(now_ms, owners)
            if self.holders or self.line:
                return False
        self.permits, self.resources = request.permits, request.resources
        self.free_resources = list(request.resources)
        return True

    def _stored(self) -> str:
        return str(list(self.resources)) if self.kind is Kind.POOL else str(self.permits)

    def _has_free(self) -> bool:
        return len(self.holders) < self.permits

    def _holder_of(self, token: str) -> HeldPermit | None:
        return next((one for one in self.holders.values() if token in one.tokens), None)

    def _held_by(self, request: Request) -> HeldPermit | None:
        mine = (one for one in self.holders.values() if (one.owner, one.entry) == (request.owner, request.entry))
        return next(mine, None)

    def _oldest(self) -> HeldPermit:
        nobody = HeldPermit("", "", 0, 0, [])
        return min(self.holders.values(), key=lambda one: one.fence, default=nobody)

    def _grant(self, token: str, owner: str, entry: str, limit_ms: int, now_ms: int) -> HeldPermit:
        self.fence = max(self.fence + 1, now_ms)
        resource = self.free_resources.pop(0) if self.kind is Kind.POOL else ""
        until_ms = now_ms + limit_ms if limit_ms else 0
        holder = self.holders[token] = HeldPermit(owner, entry, self.fence, now_ms, [token], resource, until_ms)
        if self.kind is Kind.ELECTION:
            self.terms.append(TermRecord(self.fence, owner, now_ms))
            del self.terms[:-TERMS]
        return holder

    def _grant_next(self, now_ms: int, owners: Owners) -> None:
        """Grant free permits to the first in the line whose owners still wait."""
        while self.line and self._has_free():
            token = self.waiting()[0]
            if self._waits(token, now_ms, owners):
                self._grant_ticket(token, now_ms)
            else:
                del self.line[token]

    def _waits(self, token: str, now_ms: int, owners: Owners, of: str | None = None) -> bool:
        ticket = self.line[token]
        if of is not None and ticket.owner != of:
            return False
        return now_ms <= ticket.wait_until_ms and self._runs(ticket.owner, ticket.entry, owners)

    def _grant_ticket(self, token: str, now_ms: int) -> None:
        ticket = self.line.pop(token)
        granted = self._grant(token, ticket.owner, ticket.entry, ticket.limit_ms, now_ms)
        granted.take_by_ms = now_ms + TAKE_MS

    def _end(self, holder: HeldPermit, reason: str, now_ms: int) -> None:
        for token, one in list(self.holders.items()):
            if one is holder:
                del self.holders[token]
        if self.kind is Kind.POOL:
            self.free_resources.append(holder.resource)
        for term in self.terms:
            if term.number == holder.fence:
                term.ended_ms, term.reason = now_ms, reason

    def _end_those_over(self, now_ms: int, owners: Owners) -> None:
        for holder in list(self.holders.values()):
            if reason := self._is_over(holder, now_ms, owners):
                self._end(holder, reason, now_ms)

    def _is_over(self, holder: HeldPermit, now_ms: int, owners: Owners) -> str:
        """The reason why a permit is held no more, although nobody has released it; empty if it is held."""
        if holder.take_by_ms and now_ms > holder.take_by_ms:
            return NOT_TAKEN
        if self._is_past_limit(holder, now_ms):
            return LIMIT
        life = owners.life(holder.owner)
        # A leader's messages are requeued before its term ends: the death hook comes after that.
        if life is Life.GONE or (life is Life.DYING and self.kind is not Kind.ELECTION):
            return owners.reason(holder.owner)
        if life is Life.ALIVE and holder.entry and not owners.has_entry(holder.owner, holder.entry):
            return "attempt ended"
        return ""

    @staticmethod
    def _is_past_limit(holder: HeldPermit, now_ms: int) -> bool:
        return 0 < holder.until_ms <= now_ms

    def _runs(self, owner: str, entry: str, owners: Owners) -> bool:
        return owners.life(owner) is Life.ALIVE and (not entry or owners.has_entry(owner, entry))

    # -- reading

    def held(self) -> Iterator[HeldPermit]:
        """The permits that are held, the oldest first."""
        return iter(sorted(self.holders.values(), key=lambda one: one.fence))
