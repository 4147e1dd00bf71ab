"""The scripts of barriers and the rule, ``core/coordination/barrier.py``, driven with the same moves and clock.

Parties die, vanish, are delivered again and wait no more; answers are lost, and Redis is emptied. Both give the same
replies and end in the same state; a generation ends once, and nothing of it is left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.coordination.barriers import commands
from orchestrator.core.coordination.barrier import Arriving, BarrierRecord, Ended, OnDeath, Reply, Status, Waiting
from orchestrator.core.coordination.lease import Life
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands as redis_commands
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.script_events import unwrap_reply
from tests.support.driven_machine import drive_machine
from tests.support.owners_under_test import Owners
from tests.support.patient_redis import patient_redis
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.redis_clock import TimedScripts

START_MS = 1_800_000_000_000
PACKAGE = "orchestrator.coordination.barriers"
STREAM = "orc:q:0:agent"
OWNERS = ("w@h:1#1", "w@h:1#2", "session@h:2#3")
NAMES = {"b": OnDeath.BREAK, "s": OnDeath.SHRINK}
PARTIES = 3

#: Threads that reset barriers; the answer to the last reset of each may have been lost.
CALLERS = ["a" * 16, "b" * 16]


@dataclass(frozen=True)
class Attempt:
    """Who arrives, and where: the attempt of a delivery, or a session."""

    name: str
    request: Arriving


@dataclass(frozen=True)
class Here:
    """A party that has arrived, and where."""

    attempt: Attempt
    generation: int
    waiting: Waiting


class Machine(RuleBasedStateMachine):
    """See the module."""

    redis: ClassVar[Any]
    scripts: ClassVar[TimedScripts]
    attempts = Bundle("attempts")
    arrivals = Bundle("arrivals")

    @initialize()
    def begin(self) -> None:
        self.redis.flushdb()
        self.keys = Keys()
        self.now_ms, self.count = START_MS, 0
        #: By caller: what its last reset was about.
        self.resets: dict[str, tuple[str, int, redis_commands.Attempt]] = {}
        self.owners = Owners(OWNERS)
        self.last = dict.fromkeys(NAMES, 0)
        self.tripped: dict[str, set[int]] = {name: set() for name in NAMES}
        self.model = {name: BarrierRecord() for name in NAMES}
        self.sent: list[str] = []
        self.scripts.set(self.now_ms)
        for owner in OWNERS:
            self.redis.zadd(self.keys.leases, {owner: self.now_ms})
        self.redis.xgroup_create(STREAM, "workers", "0", mkstream=True)

    def run(self, call: Call) -> Any:
        name, keys, args = call
        return unwrap_reply(self.scripts.run(name, keys, args))

    def check(self, raw: list[Any], expected: Reply) -> None:
        status, *values = raw
        match Status(status.decode()):
            case Status.WAITING:
                got = Reply(Status.WAITING, int(values[0]), int(values[1]))
            case Status.ENDED:
                known = json.loads(values[1])
                arrived = tuple(known.get("a") or ())
                ended = Ended(known["r"], known.get("p", ""), arrived, known.get("m", 0))
                got = Reply(Status.ENDED, int(values[0]), ended=ended)
            case Status.LEFT:
                got = Reply(Status.LEFT, int(values[0]), reason=values[1].decode())
            case Status.LOST:
                got = Reply(Status.LOST, int(values[0]))
            case other:
                got = Reply(other)
                expected = replace(expected, generation=0)
        assert got == expected

    # -- arriving

    @rule(
        target=attempts,
        name=st.sampled_from(sorted(NAMES)),
        owner=st.sampled_from(OWNERS),
        party=st.sampled_from(["p", "q", "r"]),
        in_handler=st.booleans(),
        leaves=st.booleans(),
        timeout_ms=st.sampled_from([2000, 60_000]),
    )
    def come(self, name: str, owner: str, party: str, in_handler: bool, leaves: bool, timeout_ms: int) -> Attempt:
        self.count += 1
        token = f"t{self.count}"
        text = f"{STREAM}2\norc:ledger:agent\nagent\n{token}\n%s{token}" if leaves else ""
        then, if_broken = (text % "then-" if leaves else "", text % "else-" if leaves else "")
        entry = self._entry(owner) if in_handler else ""
        about = PARTIES, (), NAMES[name], timeout_ms, then, if_broken
        return Attempt(name, Arriving(party, f"c{self.count}", token, owner, entry, *about))

    def _entry(self, owner: str) -> str:
        entry = f"{self.redis.xadd(STREAM, {'m': self.count}).decode()}@{STREAM}"
        self.redis.xreadgroup("workers", owner, {STREAM: ">"}, count=1)
        self.owners.entries[entry] = owner
        return entry

    @rule(target=arrivals, attempt=attempts, again=st.booleans())
    def arrive(self, attempt: Attempt, again: bool) -> Here:
        """It arrives, with a new token if it does so again: else its answer was lost."""
        request = attempt.request
        if again:
            self.count += 1
            request = replace(request, token=f"t{self.count}")
        return self._arrive(Attempt(attempt.name, request))

    def _arrive(self, attempt: Attempt) -> Here:
        name, request = attempt.name, attempt.request
        raw = self.run(commands.arrive_at_barrier(self.keys, name, request))
        expected = self.model[name].arrive(request, self.now_ms, self.owners)
        self.check(raw, expected)
        generation = expected.generation or self.model[name].generation
        return Here(attempt, generation, Waiting(request.owner, request.entry, f"w{request.token}"))

    @rule(target=arrivals, attempt=attempts, owner=st.sampled_from(OWNERS))
    def deliver_again(self, attempt: Attempt, owner: str) -> Here:
        """The attempt is over; the same delivery arrives in another one."""
        self.end_attempt(attempt)
        self.count += 1
        request = replace(attempt.request, owner=owner, entry=self._entry(owner), token=f"t{self.count}")
        return self._arrive(Attempt(attempt.name, request))

    @rule(attempt=attempts, parties=st.sampled_from([1, 2]))
    def arrive_with_another_number(self, attempt: Attempt, parties: int) -> None:
        """It is refused if the barrier has parties; else it is the number."""
        known, name = self.model[attempt.name], attempt.name
        self.count += 1
        caller = f"c{self.count}"
        self._arrive(replace(attempt, request=replace(attempt.request, parties=parties, token=caller, caller=caller)))
        assert not known.due_ms or known.parties in (1, 2, PARTIES), name

    # -- waiting

    @rule(arrival=arrivals)
    def wait(self, arrival: Here) -> None:
        name, party = arrival.attempt.name, arrival.attempt.request.party
        raw = self.run(commands.wait_at_barrier(self.keys, name, arrival.generation, party, arrival.waiting))
        known = self.model[name]
        self.check(raw, known.wait(arrival.generation, party, arrival.waiting, self.now_ms, self.owners))

    @rule(arrival=arrivals)
    def wait_no_more(self, arrival: Here) -> None:
        name, party, token = arrival.attempt.name, arrival.attempt.request.party, arrival.waiting.token
        raw = self.run(commands.leave_barrier(self.keys, name, arrival.generation, party, token, "wait timeout"))
        known = self.model[name]
        expected = known.leave(arrival.generation, party, token, "wait timeout", self.now_ms, self.owners)
        self.check(raw, expected)

    @rule(name=st.sampled_from(sorted(NAMES)), caller=st.sampled_from(CALLERS), own=st.sampled_from([-1, 0, 1]))
    def reset(self, name: str, caller: str, own: int) -> None:
        self.count += 1
        known = self.model[name]
        generation = 0 if own < 0 else max(1, known.generation - own)
        attempt = redis_commands.Attempt(self.keys.last_publishes(1), f"{caller}{self.count:016}")
        self.resets[caller] = name, generation, attempt
        self.repeat_reset(caller)

    @precondition(lambda self: self.resets)
    @rule(caller=st.sampled_from(CALLERS))
    def repeat_reset(self, caller: str) -> None:
        """The answer was lost; meanwhile others may have reset the barrier, and parties arrived."""
        if caller in self.resets:
            name, generation, attempt = self.resets[caller]
            done, _ = self.run(commands.reset_barrier(self.keys, name, generation, attempt))
            known = self.model[name]
            assert bool(done) is known.reset(generation, self.now_ms, self.owners, call=attempt.token)

    # -- ends

    @rule(attempt=attempts)
    def end_attempt(self, attempt: Attempt) -> None:
        """It was settled, or its child was killed and the message requeued."""
        if self.owners.entries.pop(attempt.request.entry, None) is not None:
            self.redis.xack(STREAM, "workers", attempt.request.entry.partition("@")[0])

    @rule(owner=st.sampled_from(OWNERS), reason=st.sampled_from(["killed", "oom"]))
    def die(self, owner: str, reason: str) -> None:
        if self.owners.lives[owner] is Life.ALIVE:
            self.redis.zrem(self.keys.leases, owner)
            self.redis.zadd(self.keys.dying, {owner: self.now_ms})
            self.redis.hset(self.keys.incarnation(owner), "reason", reason)
            self.owners.lives[owner], self.owners.reasons[owner] = Life.DYING, reason

    @rule(attempt=attempts, other=attempts, at_once=st.booleans())
    def die_while_it_waits(self, attempt: Attempt, other: Attempt, at_once: bool) -> None:
        """It is looked up by the next one that comes, or its own next attempt; else few examples come to that."""
        here = self.arrive(attempt, again=True)
        self.wait(here)
        if at_once:
            # This has all who wait looked up, which is not done again within the next second.
            self.wait(here)
        self.die(attempt.request.owner, "killed")
        living = [owner for owner in OWNERS if self.owners.lives[owner] is Life.ALIVE]
        if at_once and living:
            self.deliver_again(attempt, living[0])
            return
        self.time_passes(1500)
        self.arrive(other, again=True)

    @rule(owner=st.sampled_from(OWNERS), finishes=st.booleans())
    def sweep(self, owner: str, finishes: bool) -> None:
        """The death hook runs, perhaps twice."""
        if self.owners.lives[owner] is not Life.DYING:
            return
        reason = self.owners.reasons[owner]
        while self.run(commands.party_died(self.keys, owner, reason)):
            pass
        for known in self.model.values():
            known.owner_died(owner, reason)
        if finishes:
            self.redis.zrem(self.keys.dying, owner)
            self.redis.delete(self.keys.incarnation(owner))
            self.owners.lives[owner] = Life.GONE
            del self.owners.reasons[owner]

    @rule(owner=st.sampled_from(OWNERS))
    def join(self, owner: str) -> None:
        """As if it were another: nothing waits for a former one."""
        waits = any(one.owner == owner for known in self.model.values() for one in known.waiting.values())
        if self.owners.lives[owner] is Life.GONE and not waits:
            self.redis.zadd(self.keys.leases, {owner: self.now_ms})
            self.owners.lives[owner] = Life.ALIVE

    # -- time, and what Redis loses

    @rule(by_ms=st.sampled_from([1, 500, 1500, 30_000]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.scripts.set(self.now_ms)

    @rule()
    def the_timers_are_looked_at(self) -> None:
        for name, known in self.model.items():
            self.run(commands.end_barrier(self.keys, name))
            known.time_came(self.now_ms)

    @rule()
    def redis_is_emptied(self) -> None:
        for key in self.redis.keys("orc:barrier*") + self.redis.keys("orc:wake:*") + [self.keys.timers]:
            self.redis.delete(key)
        self.model = {name: BarrierRecord() for name in NAMES}
        self.now_ms = max(self.now_ms, *self.last.values()) + 1000
        self.scripts.set(self.now_ms)

    # -- at every step

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        for name, known in self.model.items():
            state = {key.decode(): text.decode() for key, text in self.redis.hgetall(f"orc:barrier:{name}").items()}
            assert int(state.get("g", 0)) == known.generation
            assert int(state.get("d", 0)) == known.due_ms
            assert state.get("b", "") == known.broken
            assert int(state.get("n", 0)) == known.parties
            assert self._hash("arrived", name) == {party: str(ms) for party, ms in known.arrived.items()}
            assert self._hash("gone", name) == known.gone
            assert self._hash("then", name) == known.then
            assert self._hash("if-broken", name) == known.if_broken
            waiting = {party: json.loads(text) for party, text in self._hash("waiting", name).items()}
            assert {party: (one["o"], one["e"], one["k"]) for party, one in waiting.items()} == {
                party: (one.owner, one.entry, one.token) for party, one in known.waiting.items()
            }
            due = self.redis.zscore(self.keys.timers, f"barrier:{name}")
            assert (int(due) if due else 0) == known.due_ms

    def _hash(self, what: str, name: str) -> dict[str, str]:
        found = self.redis.hgetall(f"orc:barrier-{what}:{name}")
        return {party.decode(): text.decode() for party, text in found.items()}

    @invariant()
    def messages_are_sent_once(self) -> None:
        for known in self.model.values():
            self.sent += [text.split("\n")[-1] for text in known.outbox]
            known.outbox.clear()
        put = [entry[1][b"m"].decode() for entry in self.redis.xrange(f"{STREAM}2")]
        assert sorted(put) == sorted(self.sent)
        assert int(self.redis.hget("orc:ledger:agent", "accepted") or 0) == len(put)
        assert not self.redis.keys("orc:barrier-rest:*")

    @invariant()
    def nothing_leaks(self) -> None:
        recorded = {
            (key.decode().removeprefix("orc:barriers-of:"), member.decode())
            for key in self.redis.keys("orc:barriers-of:*")
            for member in self.redis.smembers(key)
        }
        there = {(one.owner, name) for name, known in self.model.items() for one in known.waiting.values()}
        assert recorded == there

    @invariant()
    def generations_grow_and_no_party_is_counted_twice(self) -> None:
        for name, known in self.model.items():
            assert known.generation == 0 or known.generation >= self.last[name]
            self.last[name] = max(self.last[name], known.generation)
            assert len(known.arrived) + len(known.gone) < max(known.parties, 1) or not known.due_ms
            assert not known.arrived.keys() & known.gone.keys()


@contextmanager
def driving(url: str) -> Iterator[None]:
    """The machine drives the scripts behind this URL."""
    client = Machine.redis = patient_redis(url)
    Machine.scripts = TimedScripts(client, PACKAGE)
    try:
        yield
    finally:
        client.close()


def test_the_scripts_do_what_the_rule_says(own_redis_server: EmbeddedServer) -> None:
    with driving(own_redis_server.url):
        drive_machine(Machine, "BARRIER_EXAMPLES", examples=20)


#: In a script: what is right, and what is not.
FAULTS = {
    "a party too few": Fault("< b.parties then return end", "< b.parties - 1 then return end"),
    "a death breaks what may shrink": Fault("if b.on_death == 'break' then", "if true then"),
    "the dead wait on": Fault("if life(b, one.o) ~= 'alive' then return reason_of(b, one.o) end", ""),
    "who arrives again is not looked up": Fault("b.due > 0 and redis.call('HGET', b.waiting, party)", "false"),
    "the time is never over": Fault(
        "if b.due == 0 or b.now < b.due then return false end", "if true then return false end"
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=1))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    with driving(own_redis_server.url):
        assert_finds(Machine, FAULTS[fault])
