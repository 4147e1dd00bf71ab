"""Permits of eager mode: in this process' memory, by the rule alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Final
from uuid import uuid4

from orchestrator.coordination.named_leases import Grant, NamedLeases, NameState, Wanted
from orchestrator.core.clock import now_ms
from orchestrator.core.coordination.lease import (
    LIMIT,
    NOT_TAKEN,
    HeldPermit,
    Kind,
    Life,
    NamedLease,
    Status,
    TermRecord,
)
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import NoCandidate
from orchestrator.telemetry import emit, events
from orchestrator.worker.execution.owner import Owner

#: A limit may end while a request waits, and nobody reports that.
_SLICE_S: Final = 0.1

#: Candidates that are listed.
_LISTED: Final = 100


class LivingOwners:
    """The owners of eager mode. An attempt releases what it holds when it ends, so its entry need not be looked up."""

    def __init__(self, living: Callable[[], Collection[str]]) -> None:
        self._living = living

    def life(self, owner: str) -> Life:
        """Whether an agent or a session lives."""
        return Life.ALIVE if owner in self._living() else Life.GONE

    def has_entry(self, owner: str, entry: str) -> bool:
        """True: see above."""
        return True

    def reason(self, owner: str) -> str:
        """The reason of its end, where nothing has given one."""
        return "lost"


class InMemoryNamedLeases(NamedLeases):
    """Permits of the agents and sessions of one process; other threads may wait."""

    def __init__(self, living: Callable[[], Collection[str]]) -> None:
        self._owners = LivingOwners(living)
        self._names: dict[tuple[Kind, str], NamedLease] = {}
        self._changed = threading.Condition(threading.RLock())

    def acquire(self, wanted: Wanted) -> Grant:
        """Wait for a permit."""
        token, until = uuid4().hex, monotonic() + wanted.wait_s
        with self._changed:
            try:
                while True:
                    grant = self._ask(wanted, token, max(0.0, until - monotonic()))
                    if grant is not None:
                        return grant
                    self._changed.wait(max(0.0, min(_SLICE_S, until - monotonic())))
            except BaseException:
                self._release(wanted.kind, wanted.name, token, NOT_TAKEN)
                raise

    def _ask(self, wanted: Wanted, token: str, left_s: float) -> Grant | None:
        name = self._names.setdefault((wanted.kind, wanted.name), NamedLease(wanted.kind))
        reply = name.acquire(wanted.request(token, left_s), now_ms(), self._owners)
        kind = wanted.kind.value
        match reply.status:
            case Status.GRANTED:
                emit(events.LEASE_GRANTED, kind=kind, lease=wanted.name, owner=wanted.owner.id, fence=reply.fence)
                known = wanted.kind, wanted.name, wanted.owner, token
                return Grant(*known, reply.fence, reply.since_ms, reply.resource)
            case Status.WAITING:
                return None
            case status:
                raise wanted.refusal(status, holder=reply.owner, stored=reply.stored)

    def release(self, grant: Grant, reason: str = "released") -> bool:
        """Give a permit back."""
        return self._release(grant.kind, grant.name, grant.token, reason)

    def _release(self, kind: Kind, name: str, token: str, reason: str) -> bool:
        with self._changed:
            known = self._names.get((kind, name))
            if known is None:
                return False
            before = {holder.fence: holder for holder in known.held()}
            was_held = known.release(token, now_ms(), self._owners, reason=reason)
            self._emit_ended(known, name, before, reason if was_held else LIMIT)
            self._changed.notify_all()
            return was_held

    def _emit_ended(self, known: NamedLease, name: str, before: dict[int, HeldPermit], reason: str) -> None:
        for fence in before.keys() - {holder.fence for holder in known.held()}:
            owner = before[fence].owner
            emit(events.LEASE_ENDED, kind=known.kind.value, lease=name, owner=owner, fence=fence, reason=reason)

    def hand_over(self, grant: Grant, candidate: str) -> bool:
        """End a term in favour of a candidate."""
        name = grant.name
        with self._changed:
            known = self._names.get((grant.kind, name))
            if known is None or not self.is_held(grant):
                return False
            before = {holder.fence: holder for holder in known.held()}
            if not known.hand_over(grant.token, candidate, now_ms(), self._owners):
                raise NoCandidate(name, candidate, self.candidates(name))
            self._emit_ended(known, name, before, "resigned")
            self._changed.notify_all()
            return True

    def candidates(self, name: str) -> Sequence[str]:
        """The owners that wait to lead."""
        with self._changed:
            known = self._names.get((Kind.ELECTION, name))
            return () if known is None else tuple(known.line[token].owner for token in known.waiting()[:_LISTED])

    def owner_died(self, owner: str, reason: str) -> None:
        """Release what a dead owner held, and take it out of the lines."""
        with self._changed:
            for (_, name), known in self._names.items():
                before = {holder.fence: holder for holder in known.held()}
                known.owner_died(owner, reason, now_ms(), self._owners)
                self._emit_ended(known, name, before, reason)
            self._changed.notify_all()

    def is_held(self, grant: Grant) -> bool:
        """Whether a permit is still held."""
        with self._changed:
            known = self._names.get((grant.kind, grant.name))
            return known is not None and known.is_held(grant.token, now_ms(), self._owners)

    def check_in(self, name: str, resource: str, owner: Owner) -> bool:
        """Give a resource of a pool back."""
        with self._changed:
            known = self._names.get((Kind.POOL, name), NamedLease(Kind.POOL))
            before = {holder.fence: holder for holder in known.held()}
            was_held = known.check_in(resource, owner.id, owner.entry, now_ms(), self._owners)
            if was_held is not None:
                self._emit_ended(known, name, before, "released" if was_held else LIMIT)
                self._changed.notify_all()
                return was_held
        emit(events.LEASE_REFUSED, kind=Kind.POOL.value, lease=name, owner=owner.id, resource=resource)
        return False

    # -- reading

    def read(self, kind: Kind, name: str) -> NameState | None:
        """One name."""
        with self._changed:
            known = self._names.get((kind, name))
            if known is None:
                return None
            known.end_over(now_ms(), self._owners)
            holders = tuple(known.held())
            return NameState(kind, name, known.fence, known.permits, known.resources, len(known.line), holders)

    def list(self, kind: Kind, limit: int) -> Sequence[NameState]:
        """The names of a kind."""
        with self._changed:
            names = [name for known, name in reversed(self._names) if known is kind]
            states = [self.read(kind, name) for name in names[:limit]]
        return [state for state in states if state is not None]

    def next_term(self, name: str, after: Term | None, timeout_s: float) -> Term | None:
        """The next change after that term as it was seen."""
        until = monotonic() + timeout_s
        first = self.last_term(name)
        if after is None and first is not None:
            if not first.ended:
                return first
            after = first
        with self._changed:
            while True:
                found = self._term_after(name, after)
                left_s = until - monotonic()
                if found is not None or left_s <= 0:
                    return found
                self._changed.wait(min(_SLICE_S, left_s))

    def _term_after(self, name: str, after: Term | None) -> Term | None:
        known = self._names.get((Kind.ELECTION, name))
        for record in known.terms if known is not None else ():
            term = _term(name, record)
            if after is None or term.number > after.number:
                return Term(name, term.number, term.leader, term.since_s)
            if term.number == after.number and term.ended and not after.ended:
                return term
        return None

    def last_term(self, name: str) -> Term | None:
        """The last term as it is now."""
        self.read(Kind.ELECTION, name)
        known = self._names.get((Kind.ELECTION, name))
        return _term(name, known.terms[-1]) if known is not None and known.terms else None


def _term(name: str, record: TermRecord) -> Term:
    ended_s = record.ended_ms / 1000 if record.reason else None
    return Term(name, record.number, record.leader, record.since_ms / 1000, record.reason, ended_s)
