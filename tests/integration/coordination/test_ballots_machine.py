"""The scripts of ballots and the rule, ``core/coordination/ballot.py``, driven with the same moves and the same clock.

Votes come in any order, twice and late; copies die, expire and are cancelled; answers are lost, mailboxes are full,
time passes. Both count the same, decide the same once, and every voter is sent that decision once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from orchestrator.coordination.ballots import commands as ballot_commands
from orchestrator.core.coordination.ballot import MOST_WHY_BYTES, Silent, Tally, vote_in
from orchestrator.core.coordination.ballot_rules import Majority, Quorum, Unanimous, Weighted, weights_of
from orchestrator.core.coordination.decision import LONGEST_WHY, Decision, Vote
from orchestrator.core.deliveries.outcome import Cancelled, Dead, Expired, Handled, Outcome, kind, to_wire
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis.commands import Call, settle_with_outcome
from orchestrator.transport.redis.script_events import unwrap_reply
from tests.support.driven_machine import drive_machine
from tests.support.patient_redis import patient_redis
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.redis_clock import TimedScripts

START_MS = 1_800_000_000_000
TIMEOUT_MS = 10_000
PACKAGE = "orchestrator.coordination.ballots"
VOTERS = ("a", "b", "c", "d")
WEIGHTS = {"a": 1, "b": 2, "c": 3, "d": 5}
RULES = (Majority(), Unanimous(), Quorum(1), Quorum(3), Weighted(WEIGHTS, 0.5), Weighted(WEIGHTS, 2 / 3))
TEXT = '{"agent":"@n:agent@","queue":"@n:queue@","id":"@n:id@","body":"[[{\\"decided\\": @n:decision@}],{},{}]"}'

#: What becomes of a voter's copy. Long reasons exceed what is kept of all.
OUTCOMES: tuple[Outcome, ...] = (
    Handled(Vote.approve().to_wire()),
    Handled(Vote.approve('because "é" \\ holds').to_wire()),
    Handled(Vote.reject("no memory").to_wire()),
    Handled(Vote.reject("é" * LONGEST_WHY).to_wire()),
    Handled({"approves": 1}),
    Handled(["approve"]),
    Handled(None),
    Dead("poison", "killed three times"),
    Expired(),
    Cancelled("sender"),
)


@dataclass
class Proposed:
    """A ballot, as the test has proposed it."""

    id: str
    call: Call
    tally: Tally
    ends_ms: int
    #: By voter, the entry of its copy that was claimed.
    claimed: dict[str, tuple[str, str]] = field(default_factory=dict)
    cancels: dict[str, int] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """See the module."""

    redis: ClassVar[Any]
    scripts: ClassVar[TimedScripts]
    ballots = Bundle("ballots")
    keys = Keys()

    @initialize()
    def begin(self) -> None:
        self.redis.flushdb()
        self.now_ms = START_MS
        self.scripts.set(self.now_ms)
        self.count = 0
        self.known: list[Proposed] = []
        for voter in VOTERS:
            self.redis.xgroup_create(self.keys.stream(voter, "0"), "workers", "0", mkstream=True)

    def run(self, call: Call) -> Any:
        name, keys, args = call
        return unwrap_reply(self.scripts.run(name, keys, args))

    @rule(
        target=ballots,
        of=st.sampled_from(RULES),
        silent_as=st.sampled_from(list(Silent)),
        full=st.sets(st.sampled_from(VOTERS), max_size=2),
        in_slices=st.booleans(),
    )
    def propose(self, of: Any, silent_as: Silent, full: set[str], in_slices: bool) -> Proposed:
        self.count += 1
        ballot_id = f"b{self.count}"
        threshold, weights = of.threshold(VOTERS), weights_of(of, VOTERS)
        fields = {
            "message": "Scale", "proposal": "{}", "rule": str(of), "silent_as": silent_as.value,
            "weight": sum(weights.values()),
            "numerator": threshold.numerator, "denominator": threshold.denominator, "strict": int(threshold.is_strict),
            "least": threshold.least, "nonce": "n", "text:1": TEXT,
        }  # fmt: skip
        # One voter has no on_decision.
        voters = {v: str(weights[v]) + (f"\n1\n{v}\n9\nd-{ballot_id}-{v}" if v != "d" else "") for v in VOTERS}
        copies = [(v, v, "0", f"{ballot_id}-{v}", json.dumps({"ballot": ballot_id, "voter": v})) for v in VOTERS]
        for voter in full:
            known = {"root": self.keys.root, "queue": voter, "levels": "0", "group": "workers", "limit": 1}
            self.redis.hset(self.keys.flow(voter), mapping={**known, "overflow": "reject"})
            self.redis.xadd(self.keys.stream(voter, "0"), {"m": "{}"})
        tally = Tally(threshold, silent_as, weights)
        calls: list[Call] = []
        for part in [copies[:2], copies[2:]] if in_slices else [copies]:
            named: Any = {"fields": {} if calls else fields, "voters": {} if calls else voters, "copies": part}
            calls.append(ballot_commands.propose(self.keys, ballot_id, "f", TIMEOUT_MS, **named))
        for call in calls:
            said, left = self.run(call)
            assert left == 0
        for voter in VOTERS:
            if voter in full:
                tally.count(voter, "full", self.now_ms)
        assert said.decode() == ("open" if tally.decided is None else "decided")
        for voter in full:
            self.redis.delete(self.keys.flow(voter))
        proposed = Proposed(ballot_id, calls[0], tally, self.now_ms + TIMEOUT_MS)
        self.known.append(proposed)
        return proposed

    @rule(ballot=ballots)
    def propose_again(self, ballot: Proposed) -> None:
        """Its answer was lost."""
        said, left = self.run(ballot.call)
        assert (said.decode(), left) == ("open" if ballot.tally.decided is None else "decided", 0)

    @rule(ballot=ballots)
    def propose_something_else(self, ballot: Proposed) -> None:
        other = ballot_commands.propose(self.keys, ballot.id, "other", 1, fields={"x": 1}, voters={"a": "1"}, copies=[])
        assert self.run(other) == [b"exists", 0]

    @rule(ballot=ballots, voter=st.sampled_from(VOTERS), outcome=st.sampled_from(OUTCOMES))
    def vote(self, ballot: Proposed, voter: str, outcome: Outcome) -> None:
        """The voter's copy ends, as far as it was put and has not ended."""
        stream = self.keys.stream(voter, "0")
        for _, entries in self.redis.xreadgroup("workers", "w", {stream: ">"}):
            for entry, fields in entries:
                message = json.loads(fields[b"m"])
                for known in self.known:
                    if known.id == message.get("ballot"):
                        known.claimed[voter] = stream, entry.decode()
        if voter not in ballot.claimed:
            return
        ended = self._settle(ballot, voter, outcome)
        assert ended == 1
        ballot.tally.count(voter, vote_in(outcome), self.now_ms)
        # A worker that was declared dead by mistake ends it again: its voter voted otherwise then.
        assert self._settle(ballot, voter, OUTCOMES[0]) == 0
        del ballot.claimed[voter]

    @rule(ballot=ballots, outcomes=st.tuples(*[st.sampled_from(OUTCOMES)] * len(VOTERS)))
    def all_vote(self, ballot: Proposed, outcomes: tuple[Outcome, ...]) -> None:
        """Without it, few examples come to the last vote."""
        for voter, outcome in zip(VOTERS, outcomes, strict=True):
            self.vote(ballot, voter, outcome)

    def _settle(self, ballot: Proposed, voter: str, outcome: Outcome) -> Any:
        stream, entry = ballot.claimed[voter]
        key = self.keys.outcome(f"{ballot.id}-{voter}")
        text = json.dumps(to_wire(outcome))
        return self.run(settle_with_outcome(stream, self.keys.ledger(voter), key, entry, kind(outcome), text, 60_000))

    @rule(by_ms=st.sampled_from([1, 500, TIMEOUT_MS // 2, TIMEOUT_MS]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.scripts.set(self.now_ms)

    @rule()
    def sweep(self) -> None:
        for timer in self.redis.zrangebyscore(self.keys.timers, "-inf", self.now_ms):
            ballot_id = timer.decode().removeprefix("ballot:")
            assert self.run(ballot_commands.end_ballot(self.keys, ballot_id, "time")) == [1, 0]
        for ballot in self.known:
            if ballot.ends_ms <= self.now_ms:
                ballot.tally.time_out(self.now_ms)

    @rule(ballot=ballots)
    def look_too_early(self, ballot: Proposed) -> None:
        if ballot.ends_ms > self.now_ms:
            assert self.run(ballot_commands.end_ballot(self.keys, ballot.id, "time")) == [0, 0]

    @rule(ballot=ballots, token=st.sampled_from(["t1", "t2"]))
    def cancel(self, ballot: Proposed, token: str) -> None:
        """Perhaps twice, because its answer was lost."""
        did = int(ballot.tally.cancel('the "boss"', self.now_ms))
        ballot.cancels.setdefault(token, did)
        call = ballot_commands.end_ballot(self.keys, ballot.id, "cancel", why='the "boss"', token=token)
        assert self.run(call) == [ballot.cancels[token], 0]

    @rule()
    def nobody_knows_a_ballot(self) -> None:
        assert self.run(ballot_commands.end_ballot(self.keys, "nobody", "time")) == [-1, 0]
        later = ballot_commands.propose(self.keys, "nobody", "f", 1, fields={}, voters={}, copies=[])
        assert self.run(later) == [b"gone", 0]

    # -- at every step

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        for ballot in getattr(self, "known", ()):
            tally = ballot.tally
            stored = {k.decode(): v.decode() for k, v in self.redis.hgetall(self.keys.ballot(ballot.id)).items()}
            counts = [int(stored[name]) for name in ("approved", "rejected", "silent", "why_bytes", "weight")]
            assert counts == [tally.approved, tally.rejected, tally.silent, tally.why_bytes, tally.weight]
            assert tally.why_bytes <= MOST_WHY_BYTES
            assert stored.get("how") == (None if tally.decided is None else tally.decided.value)
            votes = {
                k.decode(): json.loads(v) for k, v in self.redis.hgetall(self.keys.ballot_votes(ballot.id)).items()
            }
            assert votes == {
                voter: vote if isinstance(vote, str) else [vote.approves, vote.why]
                for voter, vote in tally.counted.items()
            }
            decisions = [json.loads(raw) for raw in self.redis.lrange(self.keys.ballot_decision(ballot.id), 0, -1)]
            assert decisions == ([] if tally.decided is None else [tally.decision()])
            is_timed = self.redis.zscore(self.keys.timers, f"ballot:{ballot.id}") is not None
            assert is_timed == (tally.decided is None)
            assert 0 < self.redis.pttl(self.keys.ballot(ballot.id)) <= 604_800_000 + TIMEOUT_MS

    @invariant()
    def every_voter_is_sent_each_decision_once(self) -> None:
        decided = [ballot for ballot in getattr(self, "known", ()) if ballot.tally.decided is not None]
        for voter in VOTERS:
            sent = {}
            for _, fields in self.redis.xrange(self.keys.stream(voter, "9")):
                message = json.loads(fields[b"m"])
                assert (message["agent"], message["queue"]) == (voter, voter)
                assert message["id"] not in sent
                sent[message["id"]] = json.loads(message["body"])[0][0]["decided"]
            expected = {} if voter == "d" else {f"d-{b.id}-{voter}": b.tally.decision() for b in decided}
            assert sent == expected
            for one in sent.values():
                Decision.from_wire("b", "Scale", {}, "", one)


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
        drive_machine(Machine, "BALLOT_EXAMPLES")


#: In a script: what is right, and what is not.
FAULTS = {
    "half is a majority": Fault("and has > needed or", "and has >= needed or"),
    "who is silent is never against it": Fault("(f[5] == 'reject' and counts.silent or 0)", "0"),
    "a late vote counts": Fault("if not f[1] or f[10] then", "if not f[1] then"),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=2))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    with driving(own_redis_server.url):
        assert_finds(Machine, FAULTS[fault])
