"""A hypothesis state machine: the circuit breaker in Redis against :mod:`orchestrator.core.breaker`, move by move.

The moves are the transport's own scripts, on a real Redis by the test's clock. An attempt may end in any phase whatever
the phase was in which it began, or never be heard of again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.core import breaker
from orchestrator.core.breaker import BreakerState, Phase
from orchestrator.core.flow_policy import Breaker
from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from orchestrator.telemetry import Event, attach, detach
from orchestrator.transport.redis import commands
from tests.support.mailbox_machine import LEVELS, QUEUE, TTL_MS, MailboxMachine, message

BEGIN_MS = 10_000_000

TOLD = ("breaker.opened", "breaker.half_open", "breaker.closed", "breaker.isolated")

#: Reasons of dead letters: the agent's, and those about which nothing is.
GUILTY = ("retries exhausted", "timeout")
INNOCENT = ("validation", "malformed", "unknown task", "unknown message", "expired")

#: Asks a breaker how many messages it would admit.
PEEK = b"""
--- @include "mailbox_entry"
--- @include "breaker"
return {breaker_admits(KEYS[1], tonumber(ARGV[1]), true)}
"""


class Fuse(MailboxMachine):
    """One mailbox with a breaker, its senders and its workers."""

    def __init__(self) -> None:
        super().__init__(BEGIN_MS)
        self.sent = 0
        self.state = BreakerState()
        #: Attempts under way: the stream and entry of each.
        self.running: dict[str, tuple[str, str]] = {}
        self.phases: list[str] = []
        self.events: list[Event] = []
        attach(self.events.append, *TOLD)

    def teardown(self) -> None:
        detach(self.events.append)
        super().teardown()

    @initialize(
        failures=st.sampled_from([1, 2, 3]),
        window_ms=st.sampled_from([300, 1000]),
        open_ms=st.sampled_from([300, 1000]),
    )
    def begin(self, failures: int, window_ms: int, open_ms: int) -> None:
        self.breaker = Breaker(failures, window_ms / 1000, open_ms / 1000)
        k = self.keys
        fields = {
            "root": k.root, "queue": QUEUE, "levels": " ".join(LEVELS), "group": GROUP, "outcome_ttl_ms": TTL_MS,
            "failures": failures, "window_ms": window_ms, "open_ms": open_ms,
        }  # fmt: skip
        self.run_script(*commands.declare_flow(k, QUEUE, fields, serves=True, has_bound=False, has_breaker=True))
        self.run_script(*commands.declare(k, QUEUE, [k.stream(QUEUE, level) for level in LEVELS]))

    def turn(self, state: BreakerState) -> None:
        if state.phase is not self.state.phase:
            self.phases.append({"open": "breaker.opened"}.get(state.phase, f"breaker.{state.phase}"))
        self.state = state

    # -- senders

    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        """Some ask; all who may are begun on at once."""
        names = [f"m{self.sent + number}" for number in range(count)]
        self.sent += count
        k = self.keys
        reply = self.run_script(
            *commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [message(name) for name in names])
        )
        state, wait_ms = breaker.asked(self.breaker, self.state, self.now)
        may = 0 if wait_ms else 1 if state.phase is Phase.HALF_OPEN else count
        self.turn(state)
        if may < count:
            assert reply[1] == may, reply
            assert reply[2][0] == b"open"
            # After a probe, the others are told when the next one may go.
            assert int(reply[2][1]) == (wait_ms or round(self.breaker.open_s * 1000))
            assert reply[2][2:] == ([state.why.encode()] if state.phase is Phase.ISOLATED else [])
        else:
            assert type(reply) is bytes, reply
        self.claim(may)

    def claim(self, count: int) -> None:
        if not count:
            return
        k = self.keys
        reply = self.run_script(*commands.claim(k, [QUEUE], LEVELS, "reader", count))
        for at in range(1, len(reply), 4):
            index, entry, raw, _ = reply[at : at + 4]
            self.running[json.loads(raw)["headers"]["id"]] = k.stream(QUEUE, LEVELS[index - 4]), entry.decode()
        assert len(reply) == 1 + 4 * count, reply

    @rule()
    def peek(self) -> None:
        """Somebody wants to know whether one may go, and changes nothing."""
        may, *rest = self.scripts.run_text("peek", PEEK, [self.keys.flow(QUEUE)], [1])
        _, wait_ms = breaker.asked(self.breaker, self.state, self.now)
        assert may == (0 if wait_ms else 1)
        if wait_ms:
            assert rest == [wait_ms, *([self.state.why.encode()] if self.state.phase is Phase.ISOLATED else [])]

    # -- by hand

    @rule(why=st.sampled_from(["", "it deletes too much"]))
    def isolate(self, why: str) -> None:
        was_not = self.run_script(*commands.isolate_breaker(self.keys, QUEUE, why))
        assert was_not == (self.state.phase is not Phase.ISOLATED)
        self.turn(breaker.isolated(why))

    @rule()
    def close(self) -> None:
        was_not = self.run_script(*commands.close_breaker(self.keys, QUEUE))
        assert was_not == (self.state.phase is not Phase.CLOSED)
        self.turn(BreakerState())

    # -- workers

    def handled(self, name: str, *, tracked: bool) -> None:
        stream, entry = self.running.pop(name)
        k = self.keys
        if tracked:
            outcome = json.dumps({"outcome": "handled"})
            self.run_script(
                *commands.settle_with_outcome(
                    stream, k.ledger(QUEUE), k.outcome(name), entry, "handled", outcome, TTL_MS
                )
            )
        else:
            self.run_script(*commands.settle(stream, k.ledger(QUEUE), "handled", [entry]))
        self.turn(breaker.succeeded(self.state))

    def dead_lettered(self, name: str, reason: str) -> None:
        stream, entry = self.running.pop(name)
        letter = json.dumps({"queue": QUEUE, "reason": reason})
        self.run_script(
            *commands.dead_letter(
                self.keys, QUEUE, stream, entry, letter, reason, "ValueError", delivery=name, ttl_ms=TTL_MS
            )
        )
        if reason not in INNOCENT:
            self.failed()

    def dropped(self, name: str, reason: str = "timeout", *, tracked: bool = True) -> None:
        """It failed, and nobody wants a letter."""
        stream, entry = self.running.pop(name)
        ledger = self.keys.ledger(QUEUE)
        if tracked:
            outcome = json.dumps({"outcome": "dead", "reason": reason})
            self.run_script(
                *commands.settle_with_outcome(
                    stream, ledger, self.keys.outcome(name), entry, "dead", outcome, TTL_MS, reason=reason
                )
            )
        else:
            self.run_script(*commands.settle(stream, ledger, f"dead {reason}", [entry]))
        assert int(self.redis.hget(self.keys.ledger(QUEUE), "dead")) > 0
        if reason not in INNOCENT:
            self.failed()

    def tried_again(self, name: str) -> None:
        """It failed, and there is another attempt, much later."""
        stream, entry = self.running.pop(name)
        self.run_script(
            *commands.retry(self.keys, QUEUE, stream, entry, f"0|{name}", message(name), 10**9, ttl_ms=TTL_MS)
        )
        self.failed()

    def failed(self) -> None:
        before = self.state
        self.turn(breaker.failed(self.breaker, self.state, self.now))
        # Not the model's word alone: a late failure leaves an open breaker as it is.
        assert before.phase not in (Phase.OPEN, Phase.ISOLATED) or self.until_ms == before.until_ms

    def one(self, data: st.DataObject) -> str:
        name: str = data.draw(st.sampled_from(sorted(self.running)))
        return name

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tracked=st.booleans())
    def succeed(self, data: st.DataObject, tracked: bool) -> None:
        self.handled(self.one(data), tracked=tracked)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from([*GUILTY, "dropped", "tried again"]))
    def fail(self, data: st.DataObject, how: str) -> None:
        ENDINGS[how](self, self.one(data))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), reason=st.sampled_from(INNOCENT))
    def be_refused(self, data: st.DataObject, reason: str) -> None:
        self.dead_lettered(self.one(data), reason)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), reason=st.sampled_from((*INNOCENT, *GUILTY)), tracked=st.booleans())
    def end_without_a_letter(self, data: st.DataObject, reason: str, tracked: bool) -> None:
        self.dropped(self.one(data), reason, tracked=tracked)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def be_never_heard_of_again(self, data: st.DataObject) -> None:
        self.running.pop(self.one(data))

    # -- time

    @rule(passed_ms=st.sampled_from([1, 150, 300, 301, 1000, 5000]))
    def time_passes(self, passed_ms: int) -> None:
        self.now += passed_ms
        self.scripts.set(self.now)

    @rule(back_ms=st.sampled_from([100, 5000]))
    def the_clock_is_set_back(self, back_ms: int) -> None:
        self.now -= back_ms
        self.scripts.set(self.now)

    # -- what must hold

    @property
    def until_ms(self) -> int:
        return int(float(self.redis.hget(self.keys.flow(QUEUE), "until_ms") or 0))

    @invariant()
    def both_stand_at_the_same(self) -> None:
        phase, failed, why = self.redis.hmget(self.keys.flow(QUEUE), "phase", "failed_ms", "why")
        phase = Phase((phase or b"closed").decode())
        isolated = (why or b"").decode() if phase is Phase.ISOLATED else ""
        stands = BreakerState(phase, tuple(int(at) for at in (failed or b"").split()), self.until_ms, isolated)
        assert stands == self.state

    @invariant()
    def each_change_was_told_once(self) -> None:
        assert [event.name for event in self.events] == self.phases


#: Every way in which an attempt ends.
ENDINGS: dict[str, Callable[[Fuse, str], None]] = {
    "handled": lambda fuse, name: fuse.handled(name, tracked=True),
    "handled, untracked": lambda fuse, name: fuse.handled(name, tracked=False),
    "dropped": Fuse.dropped,
    "tried again": Fuse.tried_again,
    **{
        f"dropped, {reason}, {tracked=}": partial(Fuse.dropped, reason=reason, tracked=tracked)
        for reason in (*GUILTY, *INNOCENT)
        for tracked in (True, False)
    },
    **{reason: partial(Fuse.dead_lettered, reason=reason) for reason in (*GUILTY, *INNOCENT)},
}


@pytest.mark.timeout(300)
def test_the_scripts_breaker_is_the_pure_one(redis_server: EmbeddedServer) -> None:
    Fuse.url = redis_server.url
    run_state_machine_as_test(
        Fuse,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("phase", Phase)
def test_an_attempt_begun_before_ends_in_each_phase(redis_server: EmbeddedServer, phase: Phase, ending: str) -> None:
    Fuse.url = redis_server.url
    fuse = Fuse()
    try:
        fuse.begin(failures=2, window_ms=1000, open_ms=1000)
        fuse.send(3)
        if phase is not Phase.CLOSED:
            fuse.dead_lettered("m1", "timeout")
            fuse.tried_again("m2")
        if phase is Phase.ISOLATED:
            fuse.isolate("by hand")
        if phase is Phase.HALF_OPEN:
            fuse.time_passes(1000)
            fuse.send(1)
        assert fuse.state.phase is phase
        fuse.time_passes(150)
        ENDINGS[ending](fuse, "m0")
        fuse.both_stand_at_the_same()
        fuse.each_change_was_told_once()
        fuse.send(2)
        fuse.both_stand_at_the_same()
    finally:
        fuse.teardown()
