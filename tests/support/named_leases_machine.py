"""The machine of named leases: scripts and rule (``core/coordination/lease.py``), driven with the same moves and clock.

Owners die and vanish, attempts end, answers are lost, Redis is emptied. What is compared after each move is in
``compared_leases``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from orchestrator.coordination import commands
from orchestrator.core.coordination.lease import CALLER, Kind, Life, Reply, Request, Status
from orchestrator.transport.redis.commands import Attempt
from tests.support.compared_leases import NAMES, STREAM, Asked, ComparedLeases
from tests.support.patient_redis import patient_redis
from tests.support.redis_clock import TimedScripts
from tests.support.weighted_moves import move

PACKAGE = "orchestrator.coordination"

AT = st.integers(0, 7)
#: Mostly what matters next: who holds, and who is next.
WHICH = st.sampled_from(["held", "held", "next", "waiting", "any"])
RESOURCES = st.sampled_from(["a", "b"])
SCORES = st.sampled_from([0.0, 0.0, 1.5, -3.0, 1e12])


#: Threads that release permits; the answer to the last call of each may have been lost.
CALLERS = ["a" * 16, "b" * 16]


class Machine(ComparedLeases):
    """See the module."""

    # -- calls that end a permit

    def _attempt(self, caller: int) -> Attempt:
        """A new call of a caller."""
        self.count += 1
        return Attempt(self.keys.last_publishes(1), f"{CALLERS[caller % len(CALLERS)]}{self.count:016}")

    @move(3, when=lambda self: self.ending, at=AT)
    def repeat_an_end(self, at: int) -> None:
        """The answer was lost; meanwhile others may have released what they held."""
        repeat = list(self.ending.values())[at % len(self.ending)]
        repeat()

    # -- what a move is about

    def kind_at(self, at: int) -> Kind:
        return self.kinds[at % len(self.kinds)]

    def owner_at(self, at: int, *, alive: bool = True) -> str:
        owners = [owner for owner, life in self.owners.lives.items() if life is Life.ALIVE or not alive]
        return owners[at % len(owners)]

    def pick(self, which: str, at: int) -> Asked:
        """A request: of a holder, the next one in line, one in line, or any."""
        known = self.model[self.kind_at(at)]
        held = [token for holder in known.held() for token in holder.tokens]
        waiting = known.waiting()
        tokens = {"held": held, "next": waiting[:1], "waiting": waiting}.get(which) or list(self.asked)
        return self.asked[tokens[at % len(tokens)]]

    def has_asked(self) -> bool:
        return bool(self.asked)

    def has_dying(self) -> bool:
        return Life.DYING in self.owners.lives.values()

    def _request(self, kind: Kind, owner: str, **options: Any) -> Asked:
        self.count += 1
        permits, resources = NAMES[kind]
        request = Request(f"t{self.count}", owner, permits=permits, resources=resources, **options)
        return self.asked.setdefault(request.token, Asked(kind, request))

    # -- requests

    @move(
        6,
        at=AT,
        owner=AT,
        who=st.sampled_from(["owner", "owner", "handler", "handler", "holder", "dead"]),
        wait_ms=st.sampled_from([0, 3000, 60_000]),
        limit_ms=st.sampled_from([0, 0, 2000]),
        reentrant=st.booleans(),
        score=SCORES,
    )
    def ask(self, at: int, owner: int, who: str, wait_ms: int, limit_ms: int, reentrant: bool, score: float) -> None:
        kind, name, entry = self.kind_at(at), self.owner_at(owner, alive=who != "dead"), ""
        holder = next(self.model[kind].held(), None)
        if who == "handler":
            entry = f"{self.redis.xadd(STREAM, {'m': self.count}).decode()}@{STREAM}"
            self.redis.xreadgroup("workers", name, {STREAM: ">"}, count=1)
            self.owners.entries[entry] = name
        elif who == "holder" and holder is not None:
            name, entry = holder.owner, holder.entry
        score = score if kind is Kind.ELECTION else 0.0
        known = {"wait_ms": wait_ms, "limit_ms": limit_ms, "reentrant": reentrant, "score": score}
        self._acquire(self._request(kind, name, entry=entry, **known))

    @move(3, at=AT, first=AT, scores=st.lists(SCORES, min_size=2, max_size=4), limit_ms=st.sampled_from([0, 2000]))
    def line_up(self, at: int, first: int, scores: list[float], limit_ms: int) -> None:
        """Several ask and wait: a line is where most can go wrong."""
        kind = self.kind_at(at)
        for place, score in enumerate(scores):
            own = score if kind is Kind.ELECTION else 0.0
            wait_ms = 60_000 if place else 3000
            owner = self.owner_at(first + place)
            self._acquire(self._request(kind, owner, wait_ms=wait_ms, limit_ms=limit_ms, score=own))

    @move(4, when=has_asked, which=WHICH, at=AT, left_ms=st.sampled_from([0, 1000, 60_000]))
    def ask_again(self, which: str, at: int, left_ms: int) -> None:
        """It was woken, a second has passed, or its answer was lost."""
        asked = self.pick(which, at)
        self._acquire(replace(asked, request=replace(asked.request, wait_ms=left_ms)))

    def _acquire(self, asked: Asked) -> None:
        kind, request = asked.kind, asked.request
        raw, *values = self.run(commands.acquire(self.keys, kind, kind.value, request))
        expected = self.model[kind].acquire(request, self.now_ms, self.owners)
        status = Status(raw.decode())
        match status:
            case Status.GRANTED:
                got = Reply(status, int(values[0]), int(values[1]), values[2].decode())
                assert values[3] in ([0, 1] if expected.since_ms == self.now_ms else [0])
            case Status.WAITING:
                got = Reply(status, ahead=int(values[0]))
            case Status.TAKEN:
                got = Reply(status, int(values[0]), int(values[1]), owner=values[2].decode())
            case _:
                got = Reply(status)
        self._adopt_order()
        resource = self._resource_of(request.token) if status is Status.GRANTED else ""
        assert got == replace(expected, resource=resource)

    def _resource_of(self, token: str) -> str:
        holders = (self.model[kind]._holder_of(token) for kind in self.kinds)
        return next((holder.resource for holder in holders if holder is not None), "")

    @move(1, at=AT, owner=AT, times=st.integers(1, 3))
    def use(self, at: int, owner: int, times: int) -> None:
        """Most leases are free, and released at once."""
        for _ in range(times):
            asked = self._request(self.kind_at(at), self.owner_at(owner))
            self._acquire(asked)
            self._release(asked)

    @move(3, when=has_asked, which=WHICH, at=AT)
    def wake(self, which: str, at: int) -> None:
        """What slept reads that it was granted, if it was."""
        asked = self.pick(which, at)
        kind, token = asked.kind, asked.request.token
        woken = self.redis.lpop(self.keys.wake(token))
        holder = self.model[kind]._holder_of(token)
        if woken is not None:
            assert holder is not None
            assert woken.decode() == f"{holder.fence} {holder.since_ms} {holder.resource}"
            self.model[kind].take(token)
        else:
            assert holder is None or not holder.take_by_ms

    @move(4, when=lambda self: Kind.ELECTION in self.kinds and self.asked, which=WHICH, at=AT, to=AT)
    def hand_over(self, which: str, at: int, to: int) -> None:
        known, token = self.model[Kind.ELECTION], self.pick(which, at).request.token
        # First those who are in line, and dead.
        owners = sorted(
            (ticket.owner for ticket in known.line.values()), key=lambda one: self.owners.lives[one] is Life.ALIVE
        )
        name = owners[to % len(owners)] if owners and to < 6 else self.owner_at(to, alive=False)
        # The answer is lost every other time.
        for _ in range(1 + to % 2):
            status, *_ = self.run(commands.hand_over(self.keys, Kind.ELECTION.value, token, name))
            assert (status == b"ended") is known.hand_over(token, name, self.now_ms, self.owners)

    @move(2, when=lambda self: Kind.SEMAPHORE in self.kinds, owner=AT, permits=st.sampled_from([1, 3]))
    def ask_with_another_number(self, owner: int, permits: int) -> None:
        self._differ(Request("", self.owner_at(owner), permits=permits), Kind.SEMAPHORE)

    @move(
        2, when=lambda self: Kind.POOL in self.kinds, owner=AT, named=st.sampled_from([("c",), ("b", "a"), ("a", "b")])
    )
    def ask_for_other_resources(self, owner: int, named: tuple[str, ...]) -> None:
        self._differ(Request("", self.owner_at(owner), permits=len(named), resources=named), Kind.POOL)

    def _differ(self, request: Request, kind: Kind) -> None:
        known = self.model[kind]
        self.count += 1
        other = replace(request, token=f"t{self.count}")
        raw, *values = self.run(commands.acquire(self.keys, kind, kind.value, other))
        expected = known.acquire(other, self.now_ms, self.owners)
        assert raw.decode() == expected.status.value
        if expected.status is Status.DIFFERS:
            assert known.holders or known.line
            stored = json.dumps(known.resources, separators=(",", ":")) if kind is Kind.POOL else expected.stored
            assert values == [stored.encode()]
        elif expected.status is Status.GRANTED:
            self._release(Asked(kind, other))

    @move(5, when=has_asked, which=WHICH, at=AT, caller=AT)
    def release(self, which: str, at: int, caller: int) -> None:
        self._release(self.pick(which, at), caller)

    def _release(self, asked: Asked, caller: int = 0) -> None:
        attempt = self._attempt(caller)
        self._run_release(asked, attempt)

    def _run_release(self, asked: Asked, attempt: Attempt, first: bytes = b"") -> None:
        kind, token = asked.kind, asked.request.token
        held = self.run(commands.release(self.keys, kind, kind.value, token, "released", attempt))
        before = self.model[kind]._holder_of(token)
        if before is not None and 0 < before.until_ms <= self.now_ms:
            assert held == b""
        elif before is not None and len(before.tokens) > 1:
            assert held == b"+"
        else:
            assert held == (first if before is None else f"{before.fence} {before.owner}".encode())
        call = attempt.token
        assert bool(held) is self.model[kind].release(token, self.now_ms, self.owners, reason="released", call=call)
        self.ending[call[:CALLER]] = lambda: self._run_release(asked, attempt, held)

    @move(3, when=has_asked, which=WHICH, at=AT)
    def check(self, which: str, at: int) -> None:
        self._check(self.pick(which, at))

    def _check(self, asked: Asked) -> None:
        kind, token = asked.kind, asked.request.token
        held = self.run(commands.is_held(self.keys, kind, kind.value, token))
        assert bool(held) is self.model[kind].is_held(token, self.now_ms, self.owners)

    @move(
        4,
        when=lambda self: Kind.POOL in self.kinds and self.asked,
        which=WHICH,
        at=AT,
        resource=st.sampled_from("ab"),
        caller=AT,
    )
    def check_in(self, which: str, at: int, resource: str, caller: int) -> None:
        self._check_in(self.pick(which, at).request, resource, self._attempt(caller))

    def _check_in(self, request: Request, resource: str, attempt: Attempt, first: bytes = b"") -> None:
        known, own, call = self.model[Kind.POOL], (resource, request.owner, request.entry), attempt.token
        fences = {str(one.fence).encode() for one in known.held() if (one.resource, one.owner, one.entry) == own}
        done = self.run(commands.check_in(self.keys, "pool", *own, attempt))
        expected = known.check_in(*own, self.now_ms, self.owners, call=call)
        assert bool(done) is bool(expected)
        assert not done or done == first or {done} == fences
        if expected is None:
            self.refused.append(("lease_refused", "pool", "pool", request.owner, resource))
        self.ending[call[:CALLER]] = lambda: self._check_in(request, resource, attempt, done)

    # -- ends

    @move(4, when=lambda self: self.owners.entries, at=AT, is_noticed=st.booleans())
    def the_attempt_ends(self, at: int, is_noticed: bool) -> None:
        """It was settled, or its child was killed and the message requeued; nobody releases anything."""
        running = [asked for asked in self.asked.values() if asked.request.entry in self.owners.entries]
        # Mostly one that holds something.
        running.sort(key=lambda one: self.model[one.kind]._holder_of(one.request.token) is None)
        asked = running[at % min(2, len(running))]
        del self.owners.entries[asked.request.entry]
        self.redis.xack(STREAM, "workers", asked.request.entry.partition("@")[0])
        if is_noticed:
            self._check(asked)
            self._acquire(self._request(asked.kind, self.owner_at(at), wait_ms=60_000))

    @move(
        4,
        when=has_asked,
        which=WHICH,
        at=AT,
        reason=st.sampled_from(["killed", "oom", "deployed"]),
        is_swept=st.booleans(),
    )
    def die(self, which: str, at: int, reason: str, is_swept: bool) -> None:
        asked = self.pick(which, at)
        owner = asked.request.owner
        if self.owners.lives[owner] is Life.ALIVE:
            self.redis.zrem(self.keys.leases, owner)
            self.redis.zadd(self.keys.dying, {owner: self.now_ms})
            self.redis.hset(self.keys.incarnation(owner), "reason", reason)
            self.owners.lives[owner], self.owners.reasons[owner] = Life.DYING, reason
            self._join()
            if asked.kind is Kind.ELECTION and which in ("next", "waiting"):
                self.hand_over("held", 0, 0)
            elif is_swept:
                self._sweep(owner)

    @move(3, when=has_dying, at=AT, finishes=st.booleans())
    def sweep(self, at: int, finishes: bool) -> None:
        """The death hook runs, perhaps twice."""
        dying = [owner for owner, life in self.owners.lives.items() if life is Life.DYING]
        owner = dying[at % len(dying)]
        self._sweep(owner)
        if finishes:
            self.redis.zrem(self.keys.dying, owner)
            self.redis.delete(self.keys.incarnation(owner))
            self.owners.lives[owner] = Life.GONE
            del self.owners.reasons[owner]

    def _sweep(self, owner: str) -> None:
        reason, more = self.owners.reasons[owner], 1
        while more:
            _, more = self.run(commands.holder_died(self.keys, owner, reason, 50))
        for known in self.model.values():
            concerned = {one.owner for one in known.holders.values()} | {one.owner for one in known.line.values()}
            if owner in concerned:
                known.owner_died(owner, reason, self.now_ms, self.owners)

    @move(1, when=has_asked, which=WHICH, at=AT)
    def vanish(self, which: str, at: int) -> None:
        """Redis has forgotten it: what it held is found out by whoever asks."""
        owner = self.pick(which, at).request.owner
        if self.owners.lives[owner] is Life.ALIVE:
            self.redis.zrem(self.keys.leases, owner)
            self.owners.lives[owner] = Life.GONE
            self._join()

    # -- time, and what Redis loses

    @move(2, by_ms=st.sampled_from([1, 500, 2500, 6000]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.scripts.set(self.now_ms)

    @move(5, when=lambda self: self.moments(), at=AT, late_ms=st.integers(0, 1), is_noticed=st.booleans())
    def a_time_comes(self, at: int, late_ms: int, is_noticed: bool) -> None:
        """Something is over, or will be in a moment."""
        moments = self.moments()
        self.now_ms = moments[at % min(2, len(moments))] + late_ms
        self.scripts.set(self.now_ms)
        if is_noticed:
            for asked in [self.pick("held", place) for place in range(2)]:
                self._check(asked)
                self._release(asked)

    def moments(self) -> list[int]:
        holders = [one for known in self.model.values() for one in known.holders.values()]
        tickets = [one for known in self.model.values() for one in known.line.values()]
        times = [*(one.until_ms for one in holders), *(one.take_by_ms for one in holders)]
        return sorted({at for at in (*times, *(one.wait_until_ms for one in tickets)) if at > self.now_ms})

    @move(1)
    def the_clock_goes_back(self) -> None:
        # Together with a loss of what Redis held, it would let tokens start again lower; the page says so.
        if self.now_ms - 3000 > self.lost_until_ms:
            self.now_ms -= 3000
            self.scripts.set(self.now_ms)

    @move(1)
    def redis_is_emptied(self) -> None:
        for pattern in ("orc:named*", "orc:wake:*", "orc:last-publish:*"):
            for key in self.redis.keys(pattern):
                self.redis.delete(key)
        self._set_up()
        self.lost_until_ms = max(self.last_fence.values())
        self.now_ms = max(self.now_ms, *self.last_fence.values()) + 1000
        self.scripts.set(self.now_ms)


@contextmanager
def driving(url: str) -> Iterator[None]:
    """The machine drives the scripts behind this URL."""
    client = Machine.redis = patient_redis(url)
    Machine.scripts = TimedScripts(client, PACKAGE)
    try:
        yield
    finally:
        client.close()
