"""A hypothesis state machine: bounded mailbox, circuit breaker and idempotency keys against a model, on a real Redis.

The breaker's model is :mod:`orchestrator.core.admission.breaker` itself; ``test_breaker_state.py`` has more
of its moves. Redis' clock is the test's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.admission import breaker
from orchestrator.core.admission.breaker import BreakerState, Phase
from orchestrator.core.admission.flow_policy import Breaker, Mailbox
from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.lost_answers import Callers
from tests.support.driven_machine import drive_machine
from tests.support.mailbox_machine import LEVELS, QUEUE, TTL_MS, MailboxMachine, message
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.weighted_moves import WeightedMachine, move

BEGIN_MS = 1_000_000


def has_breaker(flow: Flow) -> bool:
    """Whether its mailbox has one."""
    return flow.breaker is not None


def is_held(flow: Flow) -> bool:
    """Whether the reader has a message."""
    return bool(flow.held)


def a_held_one(flow: Flow) -> st.SearchStrategy[str]:
    """A message that the reader has."""
    return st.sampled_from(sorted(flow.held))


class Flow(WeightedMachine, MailboxMachine):
    """One mailbox, one reader."""

    def __init__(self) -> None:
        super().__init__(BEGIN_MS)
        self.numbers = 0
        self.state = BreakerState()
        self.ready: list[str] = []
        self.delayed: list[tuple[int, str]] = []
        self.held: dict[str, tuple[str, str]] = {}
        self.outcomes: dict[str, str] = {}
        self.first: dict[str, str] = {}
        self.accepted = 0
        self.warned = False
        self.breaker: Breaker | None = None
        self.deferred: list[str] = []
        #: Those that were let go, and not claimed yet.
        self.let_go_names: list[str] = []

    @initialize(
        mailbox=st.sampled_from(
            [None, Mailbox(3), Mailbox(3, overflow="drop_oldest"), Mailbox(3, overflow="drop_newest")]
        ),
        fuse=st.sampled_from([None, Breaker(failures=2, window_s=1, open_s=1)]),
    )
    def begin(self, mailbox: Mailbox | None, fuse: Breaker | None) -> None:
        self.mailbox, self.breaker = mailbox, fuse
        fields: dict[str, Any] = {
            "root": self.keys.root, "queue": QUEUE, "levels": " ".join(LEVELS), "group": GROUP,
            "outcome_ttl_ms": TTL_MS,
        }  # fmt: skip
        if mailbox is not None:
            fields |= {"limit": mailbox.limit, "overflow": str(mailbox.overflow), "block_ms": 0}
            fields["warn_from"] = mailbox.warn_from
        if fuse is not None:
            fields |= {"failures": fuse.failures, "window_ms": 1000, "open_ms": 1000}
        k = self.keys
        self.run_script(
            *commands.declare_flow(
                k, QUEUE, fields, serves=True, has_bound=mailbox is not None, has_breaker=fuse is not None
            )
        )
        self.run_script(*commands.declare(k, QUEUE, (k.stream(QUEUE, level) for level in LEVELS)))

    # -- the model

    def names(self, count: int) -> list[str]:
        self.numbers += count
        return [f"m{number:04}" for number in range(self.numbers - count, self.numbers)]

    @property
    def depth(self) -> int:
        return len(self.ready) + len(self.delayed) + len(self.deferred)

    @property
    def is_behind_breaker(self) -> bool:
        return self.breaker is not None and (bool(self.deferred) or self.state.phase is not Phase.CLOSED)

    def may_defer(self, deferring: bool) -> bool:
        """In a mailbox that drops its oldest, Redis' real clock decides which one is older: not in this machine."""
        return deferring and (self.mailbox is None or self.mailbox.overflow != "drop_oldest")

    def defer(self, names: list[str]) -> None:
        self.deferred += names
        self.let_go()

    def let_go(self) -> None:
        """As many as the breaker admits."""
        if self.deferred and self.breaker is not None:
            self.state, count, _ = breaker.asked(self.breaker, self.state, self.now, len(self.deferred))
            self.go(count)

    def go(self, count: int) -> None:
        self.ready += self.deferred[:count]
        self.let_go_names += self.deferred[:count]
        del self.deferred[:count]

    def may_enter(self, names: list[str], *, deferring: bool = False) -> tuple[list[str], list[str], str]:
        """Who enters, who is dropped at once, and why the others are refused."""
        take, why = names, ""
        drop: list[str] = []
        if self.mailbox is not None and self.mailbox.overflow != "drop_oldest":
            room = max(0, self.mailbox.limit - self.depth)
            take, rest = names[:room], names[room:]
            if rest:
                drop, why = (rest, "") if self.mailbox.overflow == "drop_newest" else ([], "full")
        if self.breaker is not None and take + drop and not (deferring and self.is_behind_breaker):
            self.state, may, _ = breaker.asked(self.breaker, self.state, self.now, len(take) + len(drop))
            if may < len(take) + len(drop):
                drop, take, why = drop[: max(0, may - len(take))], take[:may], "open"
        return take, drop, why

    def entered(self, take: list[str], drop: list[str]) -> None:
        """What has entered is counted already; make room for it, if anything has."""
        for name in drop:
            self.outcomes[name] = "dead"
        if not take:
            return
        while self.mailbox is not None and self.mailbox.overflow == "drop_oldest" and self.depth > self.mailbox.limit:
            if self.ready:
                self.outcomes[self.ready.pop(0)] = "dead"
            else:
                self.outcomes[self.delayed.pop(0)[1]] = "dead"

    def failed(self) -> None:
        if self.breaker is not None:
            self.state = breaker.failed(self.breaker, self.state, self.now)

    def check(self, reply: Any, taken: int, why: str) -> None:
        if why:
            assert type(reply) is list, reply
            assert (reply[1], reply[2][0].decode()) == (taken, why)
        else:
            assert type(reply) is not list, reply

    # -- what happens

    @move(3, passed_ms=st.sampled_from([1, 400, 1000, 5000]))
    def time_passes(self, passed_ms: int) -> None:
        self.now += passed_ms
        self.scripts.set(self.now)

    @move(5, count=st.integers(1, 5), deferring=st.booleans())
    def send(self, count: int, deferring: bool) -> None:
        deferring = self.may_defer(deferring)
        names = self.names(count)
        texts = [message(name, deferring=deferring) for name in names]
        reply = self.run_script(*commands.publish(self.keys.stream(QUEUE, "0"), self.keys.ledger(QUEUE), texts))
        take, drop, why = self.may_enter(names, deferring=deferring)
        self.accepted += len(take) + len(drop)
        if deferring and self.is_behind_breaker:
            self.entered([], drop)
            if take:
                self.defer(take)
        else:
            self.ready += take
            self.entered(take, drop)
        self.check(reply, len(take) + len(drop), why)

    @move(2, delay_ms=st.sampled_from([10, 700]), deferring=st.booleans())
    def send_later(self, delay_ms: int, deferring: bool) -> None:
        """What is not yet due is not deferred."""
        deferring = self.may_defer(deferring)
        (name,) = self.names(1)
        text = message(name, deferring=deferring)
        reply = self.run_script(*commands.delay(self.keys, QUEUE, f"0|{name}", text, delay_ms))
        take, drop, why = self.may_enter([name], deferring=deferring)
        self.accepted += len(take) + len(drop)
        self.delayed = sorted([*self.delayed, *((self.now + delay_ms, name) for name in take)])
        self.entered(take, drop)
        self.check(reply, 0, why)

    @move(2, key=st.sampled_from(["a", "b"]), deferring=st.booleans(), times=st.integers(1, 2))
    def send_repeatedly(self, key: str, deferring: bool, times: int) -> None:
        """It may be refused, and be asked for again."""
        for _ in range(times):
            self.send_once(key, deferring)

    def send_once(self, key: str, deferring: bool) -> None:
        deferring = self.may_defer(deferring)
        (name,) = self.names(1)
        k = self.keys
        reply = self.run_script(
            *commands.accept(
                k, QUEUE, "0", message(name, deferring=deferring),
                idempotency_key=k.idempotency(QUEUE, "", key), delivery=name, member=f"0|{name}",
                ttl_ms=TTL_MS, pending_ms=TTL_MS,
            )
        )  # fmt: skip
        if key in self.first:
            assert reply == [b"duplicate", self.first[key].encode()]
            return
        take, drop, why = self.may_enter([name], deferring=deferring)
        if take or drop:
            self.first[key] = name
        self.accepted += len(take) + len(drop)
        if deferring and self.is_behind_breaker:
            self.entered([], drop)
            if take:
                self.defer(take)
        else:
            self.ready += take
            self.entered(take, drop)
        self.check(reply, 0, why)

    @move(5, credit=st.integers(1, 3))
    def claim(self, credit: int) -> None:
        due = [name for at, name in self.delayed if at <= self.now]
        self.delayed = [(at, name) for at, name in self.delayed if at > self.now]
        self.ready += due
        reply = self.run_script(*commands.claim(self.keys, [QUEUE], LEVELS, "reader", credit))
        for at in range(1, len(reply), 4):
            index, entry, raw, _ = reply[at : at + 4]
            name = json.loads(raw)["headers"]["id"]
            self.ready.remove(name)
            if name in self.let_go_names:
                assert name == self.let_go_names.pop(0), "they keep their order"
            self.held[name] = self.keys.stream(QUEUE, LEVELS[index - 4]), entry.decode()

    @move(4, when=is_held, name=a_held_one)
    def handle(self, name: str) -> None:
        stream, entry = self.held.pop(name)
        self.run_script(
            *commands.settle_with_outcome(
                stream,
                self.keys.ledger(QUEUE),
                self.keys.outcome(name),
                entry,
                "handled",
                json.dumps({"outcome": "handled"}),
                TTL_MS,
            ),
        )
        self.outcomes[name] = "handled"
        if self.breaker is not None:
            before, self.state = self.state, breaker.succeeded(self.breaker, self.state, self.now)
            if before.phase is Phase.HALF_OPEN:
                self.go(len(self.deferred))

    @move(4, when=is_held, name=a_held_one, reason=st.sampled_from(["retries exhausted", "validation"]))
    def fail_for_good(self, name: str, reason: str) -> None:
        stream, entry = self.held.pop(name)
        letter = json.dumps({"queue": QUEUE, "reason": reason})
        self.run_script(
            *commands.dead_letter(
                self.keys, QUEUE, stream, entry, letter, reason, "ValueError", delivery=name, ttl_ms=TTL_MS
            )
        )
        self.outcomes[name] = "dead"
        if reason != "validation":
            self.failed()

    @move(3, when=is_held, name=a_held_one)
    def fail_and_try_again(self, name: str) -> None:
        stream, entry = self.held.pop(name)
        self.run_script(*commands.retry(self.keys, QUEUE, stream, entry, f"0|{name}", message(name), 10, ttl_ms=TTL_MS))
        self.delayed = sorted([*self.delayed, (self.now + 10, name)])
        self.failed()

    @move(when=has_breaker)
    def sweep(self) -> None:
        """What each sweep does while there are deferred messages."""
        moved, left = self.run_script(*commands.release_deferred(self.keys, QUEUE))
        before = len(self.deferred)
        self.let_go()
        assert (moved, left) == (before - len(self.deferred), len(self.deferred))

    @move(3, when=lambda self: self.breaker is not None and self.state.phase is not Phase.CLOSED)
    def close_breaker(self) -> None:
        self.run_script(*commands.close_breaker(self.keys, QUEUE, Callers().attempt(self.keys)))
        self.state = BreakerState()
        self.go(len(self.deferred))

    @move(2, when=has_breaker, counts=st.lists(st.integers(1, 2), min_size=2, max_size=2))
    def defer_some(self, counts: list[int]) -> None:
        """Of few examples' messages several would wait behind the breaker."""
        self.isolate_breaker()
        for count in counts:
            self.send(count, deferring=True)

    @move(when=has_breaker)
    def isolate_breaker(self) -> None:
        self.run_script(*commands.isolate_breaker(self.keys, QUEUE, "by hand", Callers().attempt(self.keys)))
        self.state = breaker.isolated("by hand")

    @move(when=lambda self: self.deferred, name=lambda self: st.sampled_from(self.deferred))
    def cancel_a_deferred_one(self, name: str) -> None:
        k = self.keys
        found = self.run_script(
            *commands.find_delivery(
                k, QUEUE, name, stream=k.deferred(QUEUE), begin="-", count=100,
                cancel=(json.dumps({"outcome": "cancelled", "by": "sender"}), Callers().attempt(k)), ttl_ms=TTL_MS,
            )
        )  # fmt: skip
        assert found == [b"removed"]
        self.deferred.remove(name)
        self.outcomes[name] = "cancelled"

    # -- what must hold

    @invariant()
    def the_ledger_is_balanced_and_everything_is_where_it_should_be(self) -> None:
        if not hasattr(self, "mailbox"):
            return
        k = self.keys
        ((_, ready, held, delayed, flat, _),) = self.run_script(*commands.mailbox_depths(k, LEVELS, [QUEUE]))
        counted = {flat[at].decode(): int(flat[at + 1]) for at in range(0, len(flat), 2)}
        waiting = len(self.ready) + len(self.deferred)
        assert (ready, held, delayed) == (waiting, len(self.held), len(self.delayed))
        assert self.redis.xlen(k.deferred(QUEUE)) == len(self.deferred)
        if self.deferred:
            assert self.redis.zscore(k.timers, f"deferred:{QUEUE}") is not None, "nobody would let them go"
        dead = [name for name, outcome in self.outcomes.items() if outcome == "dead"]
        assert counted.get("accepted", 0) == self.accepted
        assert counted.get("dead", 0) == len(dead) == self.redis.xlen(k.dead_letters)
        cancelled = [name for name, outcome in self.outcomes.items() if outcome == "cancelled"]
        assert counted.get("cancelled", 0) == len(cancelled)
        assert counted.get("handled", 0) == len(self.outcomes) - len(dead) - len(cancelled)
        assert self.accepted == len(self.outcomes) + ready + held + delayed

    @invariant()
    def every_outcome_is_recorded(self) -> None:
        for name, outcome in self.outcomes.items():
            recorded = self.redis.lindex(self.keys.outcome(name), 0)
            assert recorded is not None, f"{name} has no outcome"
            assert json.loads(recorded)["outcome"] == outcome

    @invariant()
    def the_breaker_stands_where_the_pure_function_says(self) -> None:
        if getattr(self, "breaker", None) is None:
            return
        phase, failed, until = self.redis.hmget(self.keys.flow(QUEUE), "phase", "failed_ms", "until_ms")
        assert (phase or b"closed").decode() == self.state.phase
        assert tuple(int(at) for at in (failed or b"").split()) == self.state.failed_ms
        assert int(float(until or 0)) == self.state.until_ms


def test_flow_control_is_what_the_model_says(own_redis_server: EmbeddedServer) -> None:
    Flow.url = own_redis_server.url
    drive_machine(Flow, "FLOW_EXAMPLES", examples=60)


#: In a script: what is right, and what is not.
FAULTS = {
    "a message too many": Fault("admission.limit - admission.before)", "admission.limit - admission.before + 1)"),
    "what is claimed takes room": Fault(
        "depth = depth + length - (pending.err and 0 or pending[1])", "depth = depth + length"
    ),
    "what is not yet due takes no room": Fault(
        "local depth = redis.call('ZCARD', admission.root .. 'delayed:' .. admission.queue)", "local depth = 0"
    ),
    "the newest goes in place of the oldest": Fault(
        "redis.call('XRANGE', admission.streams[s], unread[s], '+', 'COUNT', 1)",
        "redis.call('XREVRANGE', admission.streams[s], '+', unread[s], 'COUNT', 1)",
    ),
    "what is dropped has no outcome": Fault(
        "record_if_tracked(admission.root, m, {outcome = 'dead', reason = 'mailbox overflow'",
        "local _ = (function() end)(admission.root, m, {outcome = 'dead', reason = 'mailbox overflow'",
    ),
    "a refused message is remembered as the first": Fault(
        "  return with_events(refused(admission))\nend\nremember()",
        "  remember()\n  return with_events(refused(admission))\nend\nremember()",
    ),
    "what the breaker refuses is dropped": Fault(
        "admission.drop = math.max(0, math.min(admission.drop, go - admission.take))", ""
    ),
    "the last that was deferred goes first": Fault(
        "redis.call('XRANGE', from, '-', '+', 'COUNT', some)", "redis.call('XREVRANGE', from, '+', '-', 'COUNT', some)"
    ),
    "nobody lets deferred messages go": Fault(
        "redis.call('ZADD', root .. 'timers', 'NX', now_ms(), 'deferred:' .. queue)", ""
    ),
    "closed by hand, the breaker lets nothing go": Fault(
        "if breaker.is_deferring then let_go(flow, breaker.root, breaker.queue, MOST_LET_GO) end", ""
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=3))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    Flow.url = own_redis_server.url
    assert_finds(Flow, FAULTS[fault], examples=150)
