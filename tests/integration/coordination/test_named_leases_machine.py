"""The scripts of named leases and the rule, ``core/lease.py``, driven with the same moves and the same clock.

Owners die and vanish, attempts end, answers are lost, Redis is emptied. Both give the same replies and end in the same
state; no permit leaks, no ticket is overtaken, and fencing tokens grow.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from orchestrator.coordination import commands
from orchestrator.core.keys import Keys
from orchestrator.core.lease import Kind, Life, NamedLease, Reply, Request, Status
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.redis.scripts import command, resolve
from tests.support.patient_redis import patient_redis
from tests.support.redis_clock import CLOCK, KEY

START_MS = 1_800_000_000_000
PACKAGE = "orchestrator.coordination"
STREAM = "orc:q:0:agent"
NAMES = {
    Kind.LEASE: (1, ()),
    Kind.ELECTION: (1, ()),
    Kind.SEMAPHORE: (2, ()),
    Kind.POOL: (2, ("a", "b")),
}
OWNERS = ("w@h:1#1", "w@h:1#2", "session@h:2#3")

#: Of what ends most of what was there, so that lines get long.
RARELY = st.integers(0, 3)


def timed(name: str) -> bytes:
    """A script of coordination that reads the time from a key."""
    return resolve(command(name, PACKAGE), PACKAGE, {"clock": CLOCK})


@dataclass(frozen=True)
class Asked:
    """A request, and what it is for."""

    kind: Kind
    request: Request


class Owners:
    """What the rule asks about owners."""

    def __init__(self) -> None:
        self.lives = dict.fromkeys(OWNERS, Life.ALIVE)
        self.reasons: dict[str, str] = {}
        self.entries: dict[str, str] = {}

    def life(self, owner: str) -> Life:
        return self.lives[owner]

    def has_entry(self, owner: str, entry: str) -> bool:
        return self.entries.get(entry) == owner

    def reason(self, owner: str) -> str:
        return self.reasons.get(owner, "lost")


class Machine(RuleBasedStateMachine):
    """See the module."""

    redis: ClassVar[Any]
    scripts: ClassVar[dict[str, str]]
    requests = Bundle("requests")

    #: Mostly one kind at a time: so requests for the same name meet each other.
    @initialize(kinds=st.sampled_from([*((kind,) for kind in NAMES), (Kind.LEASE,), (Kind.ELECTION,), tuple(NAMES)]))
    def begin(self, kinds: tuple[Kind, ...]) -> None:
        self.kinds = kinds
        self.redis.flushdb()
        self.keys = Keys()
        self.now_ms, self.lost_until_ms = START_MS, 0
        self.count = 0
        self.owners = Owners()
        self.last_fence = dict.fromkeys(NAMES, 0)
        self._set_up()
        self.redis.set(KEY, self.now_ms)
        for owner in OWNERS:
            self.redis.zadd(self.keys.leases, {owner: self.now_ms})
        self.redis.xgroup_create(STREAM, "workers", "0", mkstream=True)

    def _set_up(self) -> None:
        self.model = {kind: NamedLease(kind) for kind in NAMES}

    def run(self, call: Call) -> Any:
        name, keys, args = call
        return unwrap_reply(self.redis.evalsha(self.scripts[name], len(keys), *keys, *args))

    # -- requests

    @rule(
        target=requests,
        at=st.integers(0, len(NAMES) - 1),
        owner=st.sampled_from(OWNERS),
        in_handler=st.booleans(),
        wait_ms=st.sampled_from([0, 3000, 60_000]),
        limit_ms=st.sampled_from([0, 0, 2000]),
        reentrant=st.booleans(),
        score=st.sampled_from([0.0, 0.0, 1.5, -3.0, 1e12]),
    )
    def ask(
        self, at: int, owner: str, in_handler: bool, wait_ms: int, limit_ms: int, reentrant: bool, score: float
    ) -> Asked:
        kind = self.kinds[at % len(self.kinds)]
        self.count += 1
        entry = ""
        if in_handler:
            entry = f"{self.redis.xadd(STREAM, {'m': self.count}).decode()}@{STREAM}"
            self.redis.xreadgroup("workers", owner, {STREAM: ">"}, count=1)
            self.owners.entries[entry] = owner
        permits, resources = NAMES[kind]
        score = score if kind is Kind.ELECTION else 0.0
        request = Request(f"t{self.count}", owner, entry, wait_ms, limit_ms, reentrant, permits, resources, score)
        asked = Asked(kind, request)
        self._acquire(asked)
        return asked

    @rule(
        target=requests,
        at=st.integers(0, len(NAMES) - 1),
        first=st.integers(0, len(OWNERS) - 1),
        scores=st.lists(st.sampled_from([0.0, 0.0, 2.0, -3.0, 1e12]), min_size=2, max_size=4),
    )
    def line_up(self, at: int, first: int, scores: list[float]) -> Any:
        """Several ask and wait: a line is where most can go wrong."""
        kind = self.kinds[at % len(self.kinds)]
        permits, resources = NAMES[kind]
        found = []
        for place, score in enumerate(scores):
            self.count += 1
            owner = OWNERS[(first + place) % len(OWNERS)]
            own = score if kind is Kind.ELECTION else 0.0
            request = Request(f"t{self.count}", owner, wait_ms=60_000, permits=permits, resources=resources, score=own)
            found.append(Asked(kind, request))
            self._acquire(found[-1])
        return multiple(*found)

    @rule(asked=requests, left_ms=st.sampled_from([0, 1000, 60_000]))
    def ask_again(self, asked: Asked, left_ms: int) -> None:
        """It was woken, a second has passed, or its answer was lost."""
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
        assert got == expected

    @rule(at=st.integers(0, len(NAMES) - 1), owner=st.sampled_from(OWNERS), times=st.integers(1, 3))
    def use(self, at: int, owner: str, times: int) -> None:
        """Most leases are free, and released at once."""
        kind = self.kinds[at % len(self.kinds)]
        for _ in range(times):
            self.count += 1
            permits, resources = NAMES[kind]
            asked = Asked(kind, Request(f"t{self.count}", owner, permits=permits, resources=resources))
            self._acquire(asked)
            self._release(asked)

    @rule(asked=requests)
    def wake(self, asked: Asked) -> None:
        """What slept reads that it was granted, if it was."""
        kind, token = asked.kind, asked.request.token
        woken = self.redis.lpop(self.keys.wake(token))
        holder = self.model[kind]._holder_of(token)
        if woken is not None:
            assert holder is not None
            assert woken.decode() == f"{holder.fence} {holder.since_ms} {holder.resource}"
            self.model[kind].take(token)
        else:
            assert holder is None or not holder.take_by_ms

    @rule(asked=requests, to=st.sampled_from(OWNERS), leads=st.booleans())
    def hand_over(self, asked: Asked, to: str, leads: bool) -> None:
        known = self.model[Kind.ELECTION]
        if Kind.ELECTION in self.kinds:
            leading = [token for holder in known.held() for token in holder.tokens]
            token = leading[0] if leads and leading else asked.request.token
            status, *_ = self.run(commands.hand_over(self.keys, Kind.ELECTION.value, token, to))
            assert (status == b"ended") is known.hand_over(token, to, self.now_ms, self.owners)

    @rule(asked=requests, permits=st.sampled_from([1, 3]))
    def ask_with_another_number(self, asked: Asked, permits: int) -> None:
        if asked.kind is Kind.SEMAPHORE:
            known = self.model[asked.kind]
            self.count += 1
            other = replace(asked.request, token=f"t{self.count}", permits=permits, wait_ms=0, entry="")
            raw, *values = self.run(commands.acquire(self.keys, asked.kind, asked.kind.value, other))
            expected = known.acquire(other, self.now_ms, self.owners)
            assert raw.decode() == expected.status.value
            if expected.status is Status.DIFFERS:
                assert known.holders or known.line
                assert values == [expected.stored.encode()]
            elif expected.status is Status.GRANTED:
                self._release(Asked(asked.kind, other))

    @rule(asked=requests)
    def release(self, asked: Asked) -> None:
        self._release(asked)

    @rule(at=st.integers(0, len(NAMES) - 1))
    def release_what_is_held(self, at: int) -> None:
        kind = self.kinds[at % len(self.kinds)]
        for holder in list(self.model[kind].held())[:1]:
            self._release(Asked(kind, Request(holder.tokens[-1], holder.owner)))

    def _release(self, asked: Asked) -> None:
        kind, token = asked.kind, asked.request.token
        held = self.run(commands.release(self.keys, kind, kind.value, token, "released"))
        before = self.model[kind]._holder_of(token)
        if before is not None and 0 < before.until_ms <= self.now_ms:
            assert held == b""
        elif before is not None and len(before.tokens) > 1:
            assert held == b"+"
        else:
            assert held == (b"" if before is None else f"{before.fence} {before.owner}".encode())
        assert bool(held) is self.model[kind].release(token, self.now_ms, self.owners, reason="released")

    @rule(asked=requests)
    def check(self, asked: Asked) -> None:
        kind, token = asked.kind, asked.request.token
        held = self.run(commands.is_held(self.keys, kind, kind.value, token))
        assert bool(held) is self.model[kind].is_held(token, self.now_ms, self.owners)

    @rule(asked=requests, resource=st.sampled_from(["a", "b"]))
    def check_in(self, asked: Asked, resource: str) -> None:
        if asked.kind is not Kind.POOL:
            return
        known, request = self.model[Kind.POOL], asked.request
        mine = [
            holder.tokens[0]
            for holder in known.held()
            if (holder.resource, holder.owner, holder.entry) == (resource, request.owner, request.entry)
        ]
        done = self.run(commands.check_in(self.keys, "pool", resource, request.owner, request.entry))
        assert bool(done) is bool(mine)
        for token in mine:
            known.release(token, self.now_ms, self.owners, reason="released")

    # -- ends

    @rule(asked=requests)
    def the_attempt_ends(self, asked: Asked) -> None:
        """It was settled, or its child was killed and the message requeued; nobody releases anything."""
        entry = asked.request.entry
        if self.owners.entries.pop(entry, None) is not None:
            self.redis.xack(STREAM, "workers", entry.partition("@")[0])

    @rule(owner=st.sampled_from(OWNERS), reason=st.sampled_from(["killed", "oom", "deployed"]), rarely=RARELY)
    def die(self, owner: str, reason: str, rarely: int) -> None:
        if not rarely and self.owners.lives[owner] is Life.ALIVE:
            self.redis.zrem(self.keys.leases, owner)
            self.redis.zadd(self.keys.dying, {owner: self.now_ms})
            self.redis.hset(self.keys.incarnation(owner), "reason", reason)
            self.owners.lives[owner], self.owners.reasons[owner] = Life.DYING, reason

    @rule(owner=st.sampled_from(OWNERS), finishes=st.booleans())
    def sweep(self, owner: str, finishes: bool) -> None:
        """The death hook runs, perhaps twice."""
        if self.owners.lives[owner] is not Life.DYING:
            return
        reason, more = self.owners.reasons[owner], 1
        while more:
            _, more = self.run(commands.holder_died(self.keys, owner, reason, 50))
        for known in self.model.values():
            known.owner_died(owner, reason, self.now_ms, self.owners)
        free = [raw.decode() for raw in self.redis.lrange("orc:named-free:pool:pool", 0, -1)]
        pool = self.model[Kind.POOL]
        if sorted(free) == sorted(pool.free_resources):
            # The order in which they became free is Redis' choice.
            pool.free_resources = free
        if finishes:
            self.redis.zrem(self.keys.dying, owner)
            self.redis.delete(self.keys.incarnation(owner))
            self.owners.lives[owner] = Life.GONE
            del self.owners.reasons[owner]

    @rule(owner=st.sampled_from(OWNERS), rarely=RARELY)
    def vanish(self, owner: str, rarely: int) -> None:
        """Redis has forgotten it."""
        if not rarely and self.owners.lives[owner] is Life.ALIVE:
            self.redis.zrem(self.keys.leases, owner)
            self.owners.lives[owner] = Life.GONE

    @rule(owner=st.sampled_from(OWNERS))
    def join(self, owner: str) -> None:
        """As if it were another: what a vanished one held is found out by whoever asks."""
        held = any(one.owner == owner for known in self.model.values() for one in known.holders.values())
        waits = any(one.owner == owner for known in self.model.values() for one in known.line.values())
        if self.owners.lives[owner] is Life.GONE and not held and not waits:
            self.redis.zadd(self.keys.leases, {owner: self.now_ms})
            self.owners.lives[owner] = Life.ALIVE

    # -- time, and what Redis loses

    @rule(by_ms=st.sampled_from([1, 500, 2500, 6000]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.redis.set(KEY, self.now_ms)

    @rule()
    def the_clock_goes_back(self) -> None:
        # Together with a loss of what Redis held, it would let tokens start again lower; the page says so.
        if self.now_ms - 3000 > self.lost_until_ms:
            self.now_ms -= 3000
            self.redis.set(KEY, self.now_ms)

    @rule(rarely=RARELY)
    def redis_is_emptied(self, rarely: int) -> None:
        if rarely:
            return
        for key in self.redis.keys("orc:named*") + self.redis.keys("orc:wake:*"):
            self.redis.delete(key)
        self._set_up()
        self.lost_until_ms = max(self.last_fence.values())
        self.now_ms = max(self.now_ms, *self.last_fence.values()) + 1000
        self.redis.set(KEY, self.now_ms)

    # -- at every step

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        for kind, known in self.model.items():
            tail = f"{kind.value}:{kind.value}"
            found = [json.loads(text) for text in self.redis.hvals(f"orc:named-holders:{tail}")]
            state = {key.decode(): text.decode() for key, text in self.redis.hgetall(f"orc:named:{tail}").items()}
            if "k" in state:
                numbers = {field: int(state[field]) for field in "fut"}
                found.append({**state, **numbers, "k": state["k"].split(" "), "r": ""})
            holders = sorted(found, key=lambda holder: holder["f"])
            assert "q" in state or not known.line
            assert [(h["o"], h["e"], h["f"], h["k"], h["r"], h["u"], self._take_by_ms(h)) for h in holders] == [
                (h.owner, h.entry, h.fence, h.tokens, h.resource, h.until_ms, h.take_by_ms) for h in known.held()
            ]
            line = [member.decode()[16:] for member in self.redis.zrange(f"orc:named-line:{tail}", 0, -1)]
            assert line == known.waiting()
            assert set(line) == set(known.line)
            waiting = {t.decode(): json.loads(x) for t, x in self.redis.hgetall(f"orc:named-waiting:{tail}").items()}
            assert {t: (w["o"], w["e"], w["w"], w["l"]) for t, w in waiting.items()} == {
                token: (t.owner, t.entry, t.wait_until_ms, t.limit_ms) for token, t in known.line.items()
            }
            assert len(holders) <= max(known.permits, 1)
            if kind is Kind.ELECTION:
                leader = self.redis.hget(f"orc:named:{tail}", "o")
                assert [leader.decode()] if leader else [h.owner for h in known.held()] == []

    def _take_by_ms(self, holder: dict[str, Any]) -> int:
        """It is taken as soon as what wakes it was read."""
        return int(holder["t"]) if holder["t"] and self.redis.exists(self.keys.wake(holder["k"][0])) else 0

    @invariant()
    def what_is_in_use_does_not_expire(self) -> None:
        for kind, known in self.model.items():
            left_ms = self.redis.pttl(f"orc:named:{kind.value}:{kind.value}")
            assert left_ms < 0 or not (known.holders or known.line)

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
        pool = self.model[Kind.POOL]
        if pool.permits:
            assert sorted([*pool.free_resources, *(h.resource for h in pool.held())]) == ["a", "b"]
            free = [raw.decode() for raw in self.redis.lrange("orc:named-free:pool:pool", 0, -1)]
            assert free == pool.free_resources

    @invariant()
    def fencing_tokens_grow(self) -> None:
        for kind, known in self.model.items():
            fences = [holder.fence for holder in known.held()]
            assert len(set(fences)) == len(fences)
            assert known.fence == 0 or known.fence >= self.last_fence[kind]
            self.last_fence[kind] = max(self.last_fence[kind], known.fence)


def test_the_scripts_do_what_the_rule_says(own_redis_server: EmbeddedServer) -> None:
    client = Machine.redis = patient_redis(own_redis_server.url)
    names = ("acquire", "release", "hand_over", "check_in", "is_held", "holder_died")
    Machine.scripts = {name: client.script_load(timed(name)) for name in names}
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=int(os.environ.get("LEASE_EXAMPLES", "25")),
                stateful_step_count=30,
                deadline=None,
                database=None,
                # A failure is reported as it was found: shrinking it takes minutes.
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            ),
        )
    finally:
        client.close()
