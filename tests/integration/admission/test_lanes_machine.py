"""The scripts of permits and lanes and the rule, ``core/admission/concurrency.py``, driven with the same moves.

Messages are claimed, end in every way, are requeued by their holder or after its death, and vanish from their mailbox
where nobody ends their permit. Both let the same messages run, in the same order; no permit leaks. The machine finds
faults that are planted in the scripts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from orchestrator.core.admission.concurrency import Lanes
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.script_events import unwrap_reply
from tests.support.driven_machine import drive_machine
from tests.support.patient_redis import patient_redis
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.redis_clock import TimedScripts

START_MS = 1_800_000_000_000
QUEUE = "agent"
LEVELS = ("returned-0", "0")
WORKERS = ("w@h:1#1", "w@h:1#2")
KEYS = ("a", "b:1", 7)


def text_of(number: int, key: Any) -> str:
    fields = {"other": {"tenant": "nested"}, "note": 'tenant": "quoted', "tenant": key, "last": [1]}
    body = base64.b64encode(json.dumps([[fields], {}, {}]).encode()).decode()
    headers = {"id": f"m{number}", "task": "agent.Do", "orc": {"retry": {}, "on_error": "ignore"}}
    return json.dumps({"headers": headers, "properties": {"body_encoding": "base64"}, "body": body})


def number_of(raw: bytes) -> int:
    return int(json.loads(raw)["headers"]["id"][1:])


class Machine(RuleBasedStateMachine):
    """See the module."""

    client: ClassVar[Any]
    scripts: ClassVar[TimedScripts]

    @initialize(limit=st.integers(1, 2), keys=st.lists(st.sampled_from(KEYS), min_size=3, max_size=6))
    def begin(self, limit: int, keys: list[Any]) -> None:
        self.client.flushdb()
        self.keys, self.now_ms, self.count, self.lives = Keys(), START_MS, 0, 0
        self.scripts.set(self.now_ms)
        self.model = Lanes(limit)
        self.key: dict[int, str] = {}
        self.streams: dict[str, list[int]] = {level: [] for level in LEVELS}
        self.delayed: list[int] = []
        #: Message -> its holder, level and entry.
        self.held: dict[int, tuple[str, str, str]] = {}
        self.declare(limit)
        for worker in WORKERS:
            self.client.zadd(self.keys.leases, {worker: self.now_ms})
            self.client.hset(self.keys.incarnation(worker), "queues", json.dumps([QUEUE]))
        # Without them, few examples come to a lane that somebody waits in when an attempt ends.
        for key in keys:
            self.send(key)
        self.claim(WORKERS[0], len(keys), 0)

    def declare(self, limit: int) -> None:
        about = {"serves": True, "has_bound": False, "has_breaker": False, "concurrency": (limit, "tenant")}
        self.run(commands.declare_flow(self.keys, QUEUE, {}, **about))  # type: ignore[arg-type]

    def run(self, call: Call) -> Any:
        name, keys, args = call
        return unwrap_reply(self.scripts.run(name, keys, args))

    def stream(self, level: str) -> str:
        return self.keys.stream(QUEUE, level)

    # -- in and out

    @rule(key=st.sampled_from(KEYS))
    def send(self, key: Any) -> None:
        self.count += 1
        self.key[self.count] = json.dumps(key)
        self.run(commands.publish(self.stream("0"), self.keys.ledger(QUEUE), [text_of(self.count, key)]))
        self.streams["0"].append(self.count)

    @rule(worker=st.sampled_from(WORKERS), credit=st.integers(1, 4), ahead=st.integers(0, 2))
    def claim(self, worker: str, credit: int, ahead: int) -> None:
        call = commands.claim(self.keys, [QUEUE], LEVELS, worker, credit, ahead=ahead, leased=True)
        first, *flat = self.run(call)
        assert first[1] == -2, "the mailbox is one whose streams nobody sleeps at"
        got = [number_of(raw) for raw in flat[2::4]]
        for at, number in zip(range(0, len(flat), 4), got, strict=True):
            self.held[number] = worker, LEVELS[flat[at] - 4], flat[at + 1].decode()
        assert got == self.claimed(credit)

    def claimed(self, credit: int) -> list[int]:
        self.streams["0"] += self.delayed
        self.delayed = []
        claimed: list[int] = []
        for level in LEVELS:
            stream = self.streams[level]
            while stream and len(claimed) < credit:
                number = stream.pop(0)
                if self.model.claim(str(number), self.key[number]):
                    claimed.append(number)
        return claimed

    def end(self, number: int) -> None:
        self.streams["returned-0"] += map(int, self.model.ended(str(number)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["settle", "outcome", "letter", "retry"]))
    def attempt_ends(self, data: Any, how: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        _, level, entry = self.held.pop(number)
        k, stream, text = self.keys, self.stream(level), text_of(number, json.loads(self.key[number]))
        match how:
            case "settle":
                assert self.run(commands.settle(stream, k.ledger(QUEUE), "handled", [entry])) == 1
            case "outcome":
                outcome = k.outcome(f"m{number}")
                call = commands.settle_with_outcome(stream, k.ledger(QUEUE), outcome, entry, "handled", "{}", 1000)
                assert self.run(call) == 1
            case "letter":
                assert self.run(commands.dead_letter(k, QUEUE, stream, entry, "{}", "error", "E", ttl_ms=1000))
            case _:
                member = f"0|{number:06}"
                assert self.run(commands.retry(k, QUEUE, stream, entry, member, text, 0, ttl_ms=1000)) == 1
                self.delayed = sorted([*self.delayed, number])
        self.end(number)

    # -- requeued

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ran=st.sampled_from(["0", "undelivered", "stopping"]))
    def requeue(self, data: Any, ran: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        _, level, entry = self.held.pop(number)
        about = {"max_deaths": 99, "ttl_ms": 1000, "by": "w"}
        call = commands.requeue_held(self.keys, QUEUE, self.stream(level), [entry], ran=ran, **about)  # type: ignore[arg-type]
        assert self.run(call) == [b"returned"]
        self.streams["returned-0"].append(number)

    @rule(worker=st.sampled_from(WORKERS), reason=st.sampled_from(["killed", "drained"]))
    def die(self, worker: str, reason: str) -> None:
        """It is fenced, what it held is requeued, and another one begins under its name."""
        self.client.hset(self.keys.incarnation(worker), mapping={"reason": reason, "queues": json.dumps([QUEUE])})
        about: dict[str, Any] = {"max_deaths": 99, "ttl_ms": 1000, "batch": 100, "linger_ms": 0}
        self.run(commands.reclaim(self.keys, worker, LEVELS, death_hooks_done=True, **about))
        lost = [
            (LEVELS.index(level), entry, number)
            for number, (holder, level, entry) in self.held.items()
            if holder == worker
        ]
        for _, _, number in sorted(lost, key=lambda one: (one[0], [int(part) for part in one[1].split("-")])):
            del self.held[number]
            self.streams["returned-0"].append(number)

    # -- what nobody ends, and the sweep

    @precondition(lambda self: any(self.streams.values()))
    @rule(data=st.data())
    def one_that_waits_vanishes(self, data: Any) -> None:
        level = data.draw(st.sampled_from([level for level in LEVELS if self.streams[level]]))
        number = data.draw(st.sampled_from(self.streams[level]))
        self._remove(self.stream(level), number)
        self.streams[level].remove(number)
        self.check()

    @precondition(lambda self: any(self.model.waiting.values()))
    @rule(data=st.data())
    def one_in_a_lane_is_cancelled(self, data: Any) -> None:
        number = data.draw(st.sampled_from([one for lane in self.model.waiting.values() for one in lane]))
        self._remove(self.keys.lanes(QUEUE), int(number))
        self.model.waiting[self.key[int(number)]].remove(number)

    def _remove(self, stream: str, number: int) -> None:
        entries = self.client.xrange(stream)
        (entry,) = [entry for entry, fields in entries if number_of(fields[b"m"]) == number]
        self.client.xdel(stream, entry)

    @rule()
    def check(self) -> None:
        self.run(commands.check_lanes(self.keys, QUEUE))
        there = {str(number) for stream in self.streams.values() for number in stream} | {str(n) for n in self.held}
        for number in [one for one in self.model.permits if one not in there]:
            self.end(int(number))
        for key in sorted({*self.model.permits.values(), *self.model.waiting}):
            self.streams["returned-0"] += map(int, self.model.let_go(key))
        waiting = [number for number in self._numbers("returned-0") if number not in self.held]
        assert sorted(waiting) == sorted(self.streams["returned-0"])
        # In which order keys are looked at is Redis' choice.
        self.streams["returned-0"] = waiting

    def _numbers(self, level: str) -> list[int]:
        return [number_of(fields[b"m"]) for _, fields in self.client.xrange(self.stream(level))]

    @rule(limit=st.integers(1, 3))
    def the_limit_changes(self, limit: int) -> None:
        self.declare(limit)
        self.model.limit = limit

    # -- at every step

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        permits = {}
        for permit, key in self.client.hgetall(self.keys.permits(QUEUE)).items():
            level, _, entry = permit.decode().partition(" ")
            (found,) = self.client.xrange(self.stream(level), entry, entry)
            permits[str(number_of(found[1][b"m"]))] = key.decode()
        assert permits == self.model.permits
        used = {key.decode(): int(count) for key, count in self.client.hgetall("orc:permits-used:agent").items()}
        assert {key: count for key, count in used.items() if count} == {
            key: self.model.used(key) for key in set(self.model.permits.values())
        }
        entries = dict(self.client.xrange(self.keys.lanes(QUEUE)))
        for key, lane in self.model.waiting.items():
            ids = self.client.lrange(f"orc:lane:5:agent:{key}", 0, -1)
            assert [str(number_of(entries[one][b"m"])) for one in ids if one in entries] == lane
        assert len(entries) == sum(map(len, self.model.waiting.values()))
        assert bool(self.client.zscore(self.keys.timers, "lanes:agent")) or not self.model.permits

    @invariant()
    def every_message_is_somewhere_once(self) -> None:
        waiting = [number for level in LEVELS for number in self._numbers(level)]
        assert sorted(waiting) == sorted([*self.held, *self.streams["returned-0"], *self.streams["0"]])


@contextmanager
def driving(url: str) -> Iterator[None]:
    """The machine drives the scripts behind this URL."""
    client = Machine.client = patient_redis(url)
    Machine.scripts = TimedScripts(client)
    try:
        yield
    finally:
        client.close()


def test_the_scripts_do_what_the_rule_says(own_redis_server: EmbeddedServer) -> None:
    with driving(own_redis_server.url):
        drive_machine(Machine, "LANES_EXAMPLES", steps=40)


#: In a script: what is right, and what is not.
FAULTS = {
    "a permit that does not end": Fault("redis.call('HINCRBY', lanes.used, key, -1)", ""),
    "a requeued message loses its permit": Fault("redis.call('HSET', lanes.permits, now, key)", ""),
    "a permit too many": Fault("key) or 0) >= lanes.limit or", "key) or 0) > lanes.limit or"),
    "who came last is served first": Fault("redis.call('LPOP', lane)", "redis.call('RPOP', lane)"),
    "nobody follows one that has ended": Fault("use_permits(lanes, key)\n  forget_unused", "forget_unused"),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=2))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    with driving(own_redis_server.url):
        assert_finds(Machine, FAULTS[fault], steps=40)
