"""Named leases in Redis beside their rule (``core/coordination/lease.py``): what a state machine compares each time.

Both give the same replies, emit the same events and end in the same state; no permit leaks, no ticket is overtaken, and
fencing tokens grow.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.coordination.lease import HeldPermit, Kind, Life, NamedLease, Request
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Call
from tests.support.owners_under_test import Owners
from tests.support.redis_clock import TimedScripts
from tests.support.weighted_moves import WeightedMachine

START_MS = 1_800_000_000_000
STREAM = "orc:q:0:agent"
NAMES = {
    Kind.LEASE: (1, ()),
    Kind.ELECTION: (1, ()),
    Kind.SEMAPHORE: (2, ()),
    Kind.POOL: (2, ("a", "b")),
}

Event = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A request, and what it is for."""

    kind: Kind
    request: Request


@dataclass
class EmittingLease(NamedLease):
    """The rule, and the events that its scripts emit: all but those of what the caller itself has begun or ended."""

    events: list[Event] = field(default_factory=list)
    #: Permits that have ended since the last step.
    ended: int = 0

    def _grant_ticket(self, token: str, now_ms: int) -> None:
        owner = self.line[token].owner
        super()._grant_ticket(token, now_ms)
        self.events.append(("lease_granted", self.kind.value, self.kind.value, owner, str(self.fence)))

    def _end(self, holder: HeldPermit, reason: str, now_ms: int) -> None:
        super()._end(holder, reason, now_ms)
        self.ended += 1
        if reason not in ("released", "resigned"):
            known = self.kind.value, self.kind.value, holder.owner, str(holder.fence), reason
            self.events.append(("lease_ended", *known))


class ComparedLeases(WeightedMachine):
    """The scripts' state and events, and the rule's; after each move they are the same. The moves are a subclass'."""

    redis: ClassVar[Any]
    scripts: ClassVar[TimedScripts]

    #: Mostly one kind at a time: so requests for the same name meet each other.
    @initialize(kinds=st.sampled_from([*((kind,) for kind in NAMES), (Kind.LEASE,), (Kind.ELECTION,), tuple(NAMES)]))
    def begin(self, kinds: tuple[Kind, ...]) -> None:
        self.kinds = kinds
        self.redis.flushdb()
        self.keys = Keys()
        self.now_ms, self.lost_until_ms = START_MS, 0
        self.count = 0
        self.owners = Owners(())
        self.asked: dict[str, Asked] = {}
        self.emitted: list[Event] = []
        self.refused: list[Event] = []
        self.last_fence = dict.fromkeys(NAMES, 0)
        self._set_up()
        self.scripts.set(self.now_ms)
        for _ in range(3):
            self._join()
        self.redis.xgroup_create(STREAM, "workers", "0", mkstream=True)

    def _set_up(self) -> None:
        last_calls: dict[str, str] = {}
        self.model = {kind: EmittingLease(kind, last_calls=last_calls) for kind in self.kinds}
        #: Repeats the last call of each caller that has ended a permit.
        self.ending: dict[str, Callable[[], None]] = {}

    def _join(self) -> None:
        owner = f"w@h:1#{len(self.owners.lives) + 1}"
        self.redis.zadd(self.keys.leases, {owner: self.now_ms})
        self.owners.lives[owner] = Life.ALIVE

    def run(self, call: Call) -> Any:
        name, keys, args = call
        reply = self.scripts.run(name, keys, args)
        if isinstance(reply, list) and reply[:1] == [b"events"]:
            self.emitted += [tuple(value.decode() for value in event) for event in reply[2]]
            return reply[1]
        return reply

    def _adopt_order(self) -> None:
        """Of several resources that became free at once, the order is Redis' choice."""
        pool = self.model.get(Kind.POOL)
        if pool is None or pool.ended < 2:
            return
        free = [raw.decode() for raw in self.redis.lrange("orc:named-free:pool:pool", 0, -1)]
        held = {one["f"]: one["r"] for one in map(json.loads, self.redis.hvals("orc:named-holders:pool:pool"))}
        assert sorted([*free, *held.values()]) == sorted(pool.resources)
        pool.free_resources = free
        for holder in pool.held():
            holder.resource = held[holder.fence]

    # -- at every step

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        self._adopt_order()
        wakes = {key.decode().removeprefix("orc:wake:") for key in self.redis.keys("orc:wake:*")}
        listed = {member.decode() for member in self.redis.zrange(self.keys.named, 0, -1)}
        for kind, known in self.model.items():
            tail = f"{kind.value}:{kind.value}"
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.hvals(f"orc:named-holders:{tail}").hgetall(f"orc:named:{tail}")
                pipe.zrange(f"orc:named-line:{tail}", 0, -1).hgetall(f"orc:named-waiting:{tail}")
                pipe.lrange(f"orc:named-free:{tail}", 0, -1).xrange(f"orc:named-terms:{tail}")
                pipe.pttl(f"orc:named:{tail}").pttl(f"orc:named-free:{tail}")
                held, raw_state, raw_line, raw_waiting, free, terms, state_ttl_ms, free_ttl_ms = pipe.execute()
            found = [json.loads(text) for text in held]
            state = {key.decode(): text.decode() for key, text in raw_state.items()}
            if "k" in state:
                numbers = {name: int(state[name]) for name in "fut"}
                found.append({**state, **numbers, "k": state["k"].split(" "), "r": ""})
            holders = sorted(found, key=lambda holder: holder["f"])
            assert "q" in state or not known.line
            assert [
                (h["o"], h["e"], h["f"], h["k"], h["r"], h["u"], h["t"] if h["k"][0] in wakes else 0) for h in holders
            ] == [(h.owner, h.entry, h.fence, h.tokens, h.resource, h.until_ms, h.take_by_ms) for h in known.held()]
            line = [member.decode()[16:] for member in raw_line]
            assert line == known.waiting()
            waiting = {token.decode(): json.loads(text) for token, text in raw_waiting.items()}
            assert {t: (w["o"], w["e"], w["w"], w["l"]) for t, w in waiting.items()} == {
                token: (t.owner, t.entry, t.wait_until_ms, t.limit_ms) for token, t in known.line.items()
            }
            assert len(holders) <= max(known.permits, 1)
            assert [resource.decode() for resource in free] == known.free_resources
            assert [(number.decode(), *term.values()) for number, term in terms][-40:] == self._terms(known)[-40:]
            # What is in use does not expire; what is not does.
            in_use = bool(known.holders or known.line)
            assert not in_use or (state_ttl_ms < 0 and free_ttl_ms < 0 and tail in listed)
            assert in_use or not state or state_ttl_ms > 0
        granted = [one for known in self.model.values() for one in known.holders.values() if one.take_by_ms]
        assert wakes == {holder.tokens[0] for holder in granted}

    @staticmethod
    def _terms(known: NamedLease) -> list[tuple[Any, ...]]:
        entries: list[tuple[Any, ...]] = []
        for term in known.terms:
            leader = term.leader.encode()
            entries.append((f"{term.number}-0", leader, str(term.since_ms).encode()))
            if term.ended_ms:
                entries.append((f"{term.number}-1", leader, str(term.ended_ms).encode(), term.reason.encode()))
        return entries

    @invariant()
    def both_have_emitted_the_same(self) -> None:
        expected = [event for known in self.model.values() for event in known.events] + self.refused
        assert Counter(self.emitted) == Counter(expected)
        for events in (self.emitted, self.refused, *(known.events for known in self.model.values())):
            events.clear()
        for known in self.model.values():
            known.ended = 0

    @invariant()
    def nothing_leaks(self) -> None:
        recorded = {
            (key.decode().removeprefix("orc:named-of:"), member.decode())
            for key in self.redis.keys("orc:named-of:*")
            for member in self.redis.smembers(key)
        }
        there = set()
        for kind, known in self.model.items():
            for holder in known.holders.values():
                there |= {(holder.owner, f"{token} {kind.value}:{kind.value}") for token in holder.tokens}
            there |= {(t.owner, f"{token} {kind.value}:{kind.value}") for token, t in known.line.items()}
        assert recorded == there
        pool = self.model.get(Kind.POOL)
        if pool is not None and pool.permits:
            resources = [*pool.free_resources, *(h.resource for h in pool.held())]
            assert sorted(resources) == sorted(pool.resources)

    @invariant()
    def fencing_tokens_grow(self) -> None:
        for kind, known in self.model.items():
            fences = [holder.fence for holder in known.held()]
            assert len(set(fences)) == len(fences)
            assert known.fence == 0 or known.fence >= self.last_fence[kind]
            self.last_fence[kind] = max(self.last_fence[kind], known.fence)
