"""The machine of breakers: those in Redis against :mod:`orchestrator.core.admission.breaker`, move by move.

The moves are the transport's own scripts, on a real Redis by the test's clock. An attempt may end in any phase whatever
the phase was in which it began, or never be heard of again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.admission import breaker
from orchestrator.core.admission.breaker import BreakerState, Phase, Slice, host_of
from orchestrator.core.admission.flow_policy import Breaker
from orchestrator.core.keys import GROUP
from orchestrator.telemetry import Event, attach, detach
from orchestrator.transport.admission.flow_control import breaker_fields
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.lost_answers import Callers
from tests.support.mailbox_machine import LEVELS, QUEUE, TTL_MS, MailboxMachine, message
from tests.support.weighted_moves import WeightedMachine, move

BEGIN_MS = 10_000_000

TOLD = ("breaker.opened", "breaker.half_open", "breaker.closed", "breaker.isolated")

#: Reasons of dead letters: the agent's, and those about which nothing is.
GUILTY = ("retries exhausted", "timeout")
INNOCENT = ("validation", "malformed", "unknown task", "unknown message", "expired")

_SHORT_MS = st.sampled_from([300, 1000])

_SIMPLE = st.builds(
    lambda failures, window_ms, open_ms: Breaker(failures, window_ms / 1000, open_ms / 1000),
    st.sampled_from([1, 2, 3]),
    _SHORT_MS,
    _SHORT_MS,
)

#: With rates, several probes, and a number of callers.
_RATED = st.builds(
    lambda failures, window_ms, open_ms, failure_rate, least, slow_rate, probes, callers: Breaker(
        failures,
        window_ms / 1000,
        open_ms / 1000,
        failure_rate=failure_rate,
        least=least,
        slow_s=None if slow_rate is None else 1,
        slow_rate=slow_rate,
        probes=probes,
        callers=callers,
    ),
    st.sampled_from([None, None, 2, 3]),
    st.sampled_from([300, 1000, 1005]),
    _SHORT_MS,
    st.sampled_from([None, 0.1, 0.5, 0.5, 1, 1]),
    st.integers(1, 6),
    st.sampled_from([None, 0.3, 1]),
    st.integers(1, 3),
    st.sampled_from([1, 1, 2, 3]),
)

POLICIES = st.one_of(_SIMPLE, _RATED, _RATED)

HOSTS = ("web-1", "web-2", "w\u00e4b 3", "")

#: Asks a breaker how many messages it would admit.
PEEK = b"""
--- @include "mailbox_entry"
--- @include "breaker"
return {breaker_admits(KEYS[1], tonumber(ARGV[1]), true)}
"""


def is_running(fuse: Fuse) -> bool:
    """Whether an attempt is under way."""
    return bool(fuse.running)


def an_attempt(fuse: Fuse) -> st.SearchStrategy[str]:
    """One that is under way."""
    return st.sampled_from(sorted(fuse.running))


class Fuse(WeightedMachine, MailboxMachine):
    """One mailbox with a breaker, its senders and its workers."""

    def __init__(self) -> None:
        super().__init__(BEGIN_MS)
        self.sent = 0
        self.state = BreakerState()
        #: The host that each message was sent from.
        self.hosts: dict[str, str] = {}
        #: Attempts under way: the stream and entry of each.
        self.running: dict[str, tuple[str, str]] = {}
        self.phases: list[str] = []
        self.events: list[Event] = []
        attach(self.events.append, *TOLD)

    def teardown(self) -> None:
        detach(self.events.append)
        super().teardown()

    @initialize(policy=POLICIES)
    def begin(self, policy: Breaker) -> None:
        self.breaker = policy
        k = self.keys
        fields = {
            "root": k.root, "queue": QUEUE, "levels": " ".join(LEVELS), "group": GROUP, "outcome_ttl_ms": TTL_MS,
            **breaker_fields(policy),
        }  # fmt: skip
        self.run_script(*commands.declare_flow(k, QUEUE, fields, serves=True, has_bound=False, has_breaker=True))
        self.run_script(*commands.declare(k, QUEUE, [k.stream(QUEUE, level) for level in LEVELS]))

    def turn(self, state: BreakerState) -> None:
        if state.phase is not self.state.phase:
            self.phases.append({"open": "breaker.opened"}.get(state.phase, f"breaker.{state.phase}"))
        self.state = state

    # -- senders

    @move(10, count=st.integers(1, 3), host=st.sampled_from(HOSTS))
    def send(self, count: int, host: str = "") -> None:
        """Some ask; all who may are begun on at once."""
        names = [f"m{self.sent + number:04}" for number in range(count)]
        origin = f"gen1@{host}" if host else None
        self.hosts |= dict.fromkeys(names, host_of(origin))
        self.sent += count
        k = self.keys
        reply = self.run_script(
            *commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [message(name, origin) for name in names])
        )
        state, may, wait_ms = breaker.asked(self.breaker, self.state, self.now, count)
        self.turn(state)
        if may < count:
            assert reply[1] == may, reply
            assert reply[2][0] == b"open"
            # After the probes, the others are told when the next ones may go.
            assert int(reply[2][1]) == wait_ms
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

    @move(3)
    def peek(self) -> None:
        """Somebody wants to know whether one may go, and changes nothing."""
        may, *rest = self.scripts.run_text("peek", PEEK, [self.keys.flow(QUEUE)], [2])
        _, admitted, wait_ms = breaker.asked(self.breaker, self.state, self.now, 2)
        assert may == admitted
        if wait_ms:
            assert rest == [wait_ms, *([self.state.why.encode()] if self.state.phase is Phase.ISOLATED else [])]

    # -- by hand

    @move(why=st.sampled_from(["", "it deletes too much"]))
    def isolate(self, why: str) -> None:
        was_not = self.run_script(*commands.isolate_breaker(self.keys, QUEUE, why, Callers().attempt(self.keys)))
        assert was_not == (self.state.phase is not Phase.ISOLATED)
        self.turn(breaker.isolated(why))

    @move()
    def close(self) -> None:
        was_not = self.run_script(*commands.close_breaker(self.keys, QUEUE, Callers().attempt(self.keys)))
        assert was_not == (self.state.phase is not Phase.CLOSED)
        self.turn(BreakerState())

    @move(10, when=lambda self: self.state.phase is Phase.ISOLATED)
    def end_isolation(self) -> None:
        """Soon, or most of an example would be that."""
        self.close()

    # -- workers

    def handled(self, name: str, *, tracked: bool, slow: bool = False) -> None:
        stream, entry = self.running.pop(name)
        k = self.keys
        if tracked:
            outcome = json.dumps({"outcome": "handled"})
            self.run_script(
                *commands.settle_with_outcome(
                    stream, k.ledger(QUEUE), k.outcome(name), entry, "handled", outcome, TTL_MS,
                    reason="slow" if slow else "",
                )
            )  # fmt: skip
        else:
            ending = "handled slow" if slow else "handled"
            self.run_script(*commands.settle(stream, k.ledger(QUEUE), ending, [entry]))
        self.turn(breaker.succeeded(self.breaker, self.state, self.now, slow=slow))

    @move(when=is_running, slow=st.booleans())
    def all_are_handled_at_once(self, slow: bool) -> None:
        """Acknowledgements of one stream are sent together."""
        by_stream: dict[str, list[str]] = {}
        for stream, entry in self.running.values():
            by_stream.setdefault(stream, []).append(entry)
        for stream, entries in by_stream.items():
            ending = "handled slow" if slow else "handled"
            self.run_script(*commands.settle(stream, self.keys.ledger(QUEUE), ending, entries))
            for _ in entries:
                self.turn(breaker.succeeded(self.breaker, self.state, self.now, slow=slow))
        self.running.clear()

    def dead_lettered(self, name: str, reason: str) -> None:
        stream, entry = self.running.pop(name)
        letter = json.dumps({"queue": QUEUE, "reason": reason})
        self.run_script(
            *commands.dead_letter(
                self.keys, QUEUE, stream, entry, letter, reason, "ValueError", delivery=name, ttl_ms=TTL_MS
            )
        )
        if reason not in INNOCENT:
            self.failed(name)

    def dropped(self, name: str, reason: str = "timeout", *, tracked: bool = True) -> None:
        """It failed, and nobody wants a letter."""
        stream, entry = self.running.pop(name)
        ledger = self.keys.ledger(QUEUE)
        if tracked:
            outcome = json.dumps({"outcome": "dead", "reason": reason})
            self.run_script(
                *commands.settle_with_outcome(
                    stream, ledger, self.keys.outcome(name), entry, "dead", outcome, TTL_MS,
                    reason=f"{reason}\n{self.hosts[name]}",
                )
            )  # fmt: skip
        else:
            self.run_script(*commands.settle(stream, ledger, f"dead {reason}\n{self.hosts[name]}", [entry]))
        assert int(self.redis.hget(self.keys.ledger(QUEUE), "dead")) > 0
        if reason not in INNOCENT:
            self.failed(name)

    def tried_again(self, name: str) -> None:
        """It failed, and there is another attempt, much later."""
        stream, entry = self.running.pop(name)
        origin = f"gen1@{self.hosts[name]}" if self.hosts[name] else None
        self.run_script(
            *commands.retry(self.keys, QUEUE, stream, entry, f"0|{name}", message(name, origin), 10**9, ttl_ms=TTL_MS)
        )
        self.failed(name)

    def failed(self, name: str) -> None:
        before = self.state
        self.turn(breaker.failed(self.breaker, self.state, self.now, self.hosts[name]))
        # Not the model's word alone: a late failure leaves an open breaker as it is.
        assert before.phase not in (Phase.OPEN, Phase.ISOLATED) or self.until_ms == before.until_ms

    @move(8, when=is_running, name=an_attempt, tracked=st.booleans(), slow=st.booleans())
    def succeed(self, name: str, tracked: bool, slow: bool) -> None:
        self.handled(name, tracked=tracked, slow=slow)

    @move(14, when=is_running, name=an_attempt, how=st.sampled_from([*GUILTY, "dropped", "tried again"]))
    def fail(self, name: str, how: str) -> None:
        ENDINGS[how](self, name)

    @move(2, when=is_running, name=an_attempt, reason=st.sampled_from(INNOCENT))
    def be_refused(self, name: str, reason: str) -> None:
        self.dead_lettered(name, reason)

    @move(2, when=is_running, name=an_attempt, reason=st.sampled_from((*INNOCENT, *GUILTY)), tracked=st.booleans())
    def end_without_a_letter(self, name: str, reason: str, tracked: bool) -> None:
        self.dropped(name, reason, tracked=tracked)

    @move(when=is_running, name=an_attempt)
    def be_never_heard_of_again(self, name: str) -> None:
        self.running.pop(name)

    @move(
        2,
        when=lambda self: self.state.phase in (Phase.CLOSED, Phase.OPEN),
        count=st.integers(1, 3),
        handled=st.integers(0, 2),
        later=st.booleans(),
    )
    def probe(self, count: int, handled: int, later: bool) -> None:
        """It opens, and probes go; without this, few examples come to more than one."""
        for host in HOSTS * 2:
            if self.state.phase is Phase.CLOSED:
                self.send(1, host)
                self.dead_lettered(max(self.running), "timeout")
        if self.state.phase is not Phase.OPEN:
            return
        self.time_passes(max(0, self.state.until_ms - self.now))
        before = set(self.running)
        self.send(count)
        for name in sorted(set(self.running) - before)[:handled]:
            self.handled(name, tracked=True)
        if later:
            self.time_passes(1000)
            self.send(count)
        self.peek()

    @move(3, when=lambda self: self.breaker.failure_rate is not None and self.state.phase is Phase.CLOSED)
    def reach_the_rate(self) -> None:
        """Exactly the rate of them fails, the last ones; without this, few examples come to that."""
        self.time_passes(5000)
        rate = float(self.breaker.failure_rate or 0)
        count = next(count for count in range(self.breaker.least, 11) if (rate * count).is_integer())
        for at in range(count):
            if self.state.phase is Phase.CLOSED:
                self.send(1, HOSTS[at % len(HOSTS)])
                if at < count - rate * count:
                    self.handled(max(self.running), tracked=True)
                else:
                    self.dead_lettered(max(self.running), "timeout")

    # -- time

    @move(8, passed_ms=st.sampled_from([1, 150, 300, 301, 1000, 5000]))
    def time_passes(self, passed_ms: int) -> None:
        self.now += passed_ms
        self.scripts.set(self.now)

    @move(back_ms=st.sampled_from([100, 5000]))
    def the_clock_is_set_back(self, back_ms: int) -> None:
        self.now -= back_ms
        self.scripts.set(self.now)

    # -- what must hold

    @property
    def until_ms(self) -> int:
        return int(float(self.redis.hget(self.keys.flow(QUEUE), "until_ms") or 0))

    @invariant()
    def both_stand_at_the_same(self) -> None:
        names = ("phase", "failed_ms", "why", "slices", "hosts", "admitted", "probes_handled")
        values = self.redis.hmget(self.keys.flow(QUEUE), names)
        phase, failed, why, slices, hosts, admitted, handled = ((value or b"").decode() for value in values)
        stands = BreakerState(
            Phase(phase or "closed"),
            tuple(int(at) for at in failed.split()),
            self.until_ms,
            why if phase == Phase.ISOLATED else "",
            tuple(Slice(*map(int, one.split(":"))) for one in slices.split()),
            tuple((host, int(at)) for at, host in (line.split(" ") for line in hosts.splitlines())),
            int(admitted or phase == Phase.HALF_OPEN),
            int(handled or 0),
        )
        assert stands == self.state

    @invariant()
    def each_change_was_told_once(self) -> None:
        assert [event.name for event in self.events] == self.phases

    @invariant()
    def its_memory_is_bounded(self) -> None:
        state, policy = self.state, self.breaker
        assert len(state.failed_ms) <= (policy.failures or 0)
        assert len(state.slices) <= breaker.SLICES
        assert len(state.hosts) <= policy.callers


#: Every way in which an attempt ends.
ENDINGS: dict[str, Callable[[Fuse, str], None]] = {
    "handled": lambda fuse, name: fuse.handled(name, tracked=True),
    "handled, untracked": lambda fuse, name: fuse.handled(name, tracked=False),
    "handled slowly": lambda fuse, name: fuse.handled(name, tracked=False, slow=True),
    "dropped": Fuse.dropped,
    "tried again": Fuse.tried_again,
    **{
        f"dropped, {reason}, {tracked=}": partial(Fuse.dropped, reason=reason, tracked=tracked)
        for reason in (*GUILTY, *INNOCENT)
        for tracked in (True, False)
    },
    **{reason: partial(Fuse.dead_lettered, reason=reason) for reason in (*GUILTY, *INNOCENT)},
}
