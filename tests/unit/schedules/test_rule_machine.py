"""The rule of a schedule under any order of events: clocks that jump, edits, pauses, refusals, lost and late outcomes.

Held after each step: nominal times are decided in order and each once; what a step decides is exactly what lies between
the next time before and after it; no time is fired twice; jitter keeps the order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from orchestrator.core.schedules import rule as schedule_rule
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.nominal_times import ScheduleTimes
from orchestrator.core.schedules.plan import preview, trigger
from orchestrator.core.schedules.rule import NOT_MADE_UP, begin, decide, outcome, pause, refused, resume, update
from orchestrator.core.schedules.state import Counts, Decision, Fate, Record, ScheduleState, jitter_ms_of
from orchestrator.core.schedules.triggers import Cron, Interval, Once, Trigger
from orchestrator.core.schedules.values import Misfire, Overlap, TaskRecipient
from tests.support.drawn_examples import times_factor
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.weighted_moves import WeightedMachine, move

S = 1000
BEGIN_MS = 1_792_886_400_000

#: Mostly intervals: others are rarely due, or once.
triggers: st.SearchStrategy[Trigger] = st.one_of(
    st.integers(7, 60).map(lambda every_s: Interval(every_s * S)),
    st.integers(7, 600).map(lambda every_s: Interval(every_s * S)),
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *"]).map(lambda text: Cron(text, "Europe/Berlin")),
    st.integers(0, 600).map(lambda after_s: Once(BEGIN_MS + after_s * S)),
)
policies = st.fixed_dictionaries(
    {
        "misfire": st.sampled_from(Misfire),
        "overlap": st.sampled_from(Overlap),
        "misfire_grace_s": st.none() | st.integers(0, 300),
        "max_runs": st.sampled_from([None, None, None, 1, 4]),
        "jitter_s": st.sampled_from([0, 6.9]),
        "pause_on_failure": st.booleans(),
        "end_ms": st.sampled_from([None, None, None, BEGIN_MS + 1, BEGIN_MS + 3_600_000]),
        "start_ms": st.none() | st.integers(BEGIN_MS - 3_600_000, BEGIN_MS),
    }
)


class ScheduleMachine(WeightedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.latest = BEGIN_MS
        self.fired: list[int] = []
        self.pending: list[str] = []
        self.counts: dict[Fate, int] = dict.fromkeys(Fate, 0)
        #: When other times were put in force; those before that are not made up for.
        self.edited = 0
        #: Times that were to wait for an outcome, less those that do not wait any more.
        self.waiting = 0

    @initialize(trigger=triggers, policies=policies)
    def add(self, trigger: Trigger, policies: dict[str, Any]) -> None:
        self.definition = ScheduleDefinition(id="s", recipient=TaskRecipient("t"), trigger=trigger, **policies)
        self.state = begin(self.definition, self.now)

    @move(6, ms=st.sampled_from([S, 5 * S, 20 * S, 60 * S, 60 * S, 600 * S, 600 * S, 86_400_000]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @move(ms=st.sampled_from([S, 10 * S, 60 * S, 3600 * S]))
    def clock_is_set_back(self, ms: int) -> None:
        self.now = max(BEGIN_MS, self.now - ms)

    @move(4, is_full=st.booleans())
    def beat_looks(self, is_full: bool) -> None:
        decision = self.decide()
        if decision.fire is not None and is_full:
            self.state = refused(self.state, "mailbox full", self.now)
            return
        self.apply(decision)

    @move(3, steps_ms=st.lists(st.integers(0, 90 * S), min_size=1, max_size=5))
    def beat_works_off_what_is_due(self, steps_ms: list[int]) -> None:
        for step_ms in steps_ms:
            self.now += step_ms
            self.work_off()

    @move(3, when=lambda self: self.definition.overlap is Overlap.BUFFER_ONE)
    def one_waits_for_the_one_before(self) -> None:
        """Without this, few examples come to that."""
        for _ in range(2):
            if self.state.due_ms is not None:
                self.now = max(self.now, self.state.due_ms)
            self.work_off()

    def work_off(self) -> None:
        for _ in range(20_000):
            decision = self.decide()
            if decision.state == self.state:
                break
            self.apply(decision)
        waits_for_outcome = self.state.buffered_ms is not None and self.state.running
        assert self.state.due_ms is None or self.state.due_ms > self.now or waits_for_outcome

    @move(4, when=lambda self: self.pending, at=st.integers(0, 20), is_handled=st.sampled_from([True, True, False]))
    def outcome_is_recorded(self, at: int, is_handled: bool) -> None:
        delivery_id = self.pending[at % len(self.pending)]
        self.pending.remove(delivery_id)
        self.apply(outcome(self.definition, self.state, delivery_id, is_handled=is_handled, now_ms=self.now))
        assert self.state.running != delivery_id
        assert is_handled or not self.definition.pause_on_failure or self.state.paused

    @move(when=lambda self: not self.state.paused)
    def operator_pauses(self) -> None:
        self.apply(pause(self.state, "release", self.now))
        assert self.state.due_ms is None

    @move(4, when=lambda self: self.state.paused, catch_up=st.booleans())
    def operator_resumes(self, catch_up: bool) -> None:
        before = self.state
        self.apply(resume(self.definition, self.state, self.now, catch_up=catch_up))
        assert not self.state.paused
        if before.paused and before.next_ms is not None:
            is_overdue = ScheduleTimes(self.definition, before).due(before.next_ms) <= self.now
            assert (self.state.next_ms == before.next_ms) is (catch_up or not is_overdue)

    @move()
    def operator_triggers(self) -> None:
        decision = trigger(self.definition, self.state, self.now, str(len(self.fired)))
        assert decision.state == self.state
        assert decision.counts == Counts(1)

    @move(2, trigger=st.none() | triggers, policies=policies)
    def operator_edits(self, trigger: Trigger | None, policies: dict[str, Any]) -> None:
        before = self.definition
        after = ScheduleDefinition(id="s", recipient=before.recipient, trigger=trigger or before.trigger, **policies)
        state = self.state
        decision = update(before, after, state, self.now)
        when = ("trigger", "start_ms", "end_ms")
        has_other_times = any(getattr(before, name) != getattr(after, name) for name in when)
        if has_other_times and state.next_ms is not None and state.next_ms <= self.now:
            passed = self.between(before, state, state.next_ms, self.now + 1)
            kept = decision.state.next_ms
            has_runs = after.max_runs is None or state.runs < after.max_runs
            dropped = int(state.buffered_ms is not None and decision.state.buffered_ms is None)
            assert decision.counts.due == (len(passed) if state.paused else len(passed) - 1) + dropped
            assert state.paused or not has_runs or kept == passed[-1]
        if has_other_times and not isinstance(after.trigger, Once):
            self.edited = max(self.now, self.edited)
        self.note(decision.records)
        self.definition, self.state = after, decision.state
        assert self.state.rev == state.rev + 1

    def decide(self) -> Decision:
        """What is decided now, after a look at whether it is by the policies."""
        decision, before = decide(self.definition, self.state, self.now), self.state
        fates = {record.fate for record in decision.records}
        policy, grace_ms = self.definition, self.definition.grace_ms
        if before.buffered_ms is not None and not before.running:
            assert [record.first_ms for record in decision.records] == [before.buffered_ms]
            assert fates == {Fate.FIRED}
            return decision
        is_waiting = bool(before.running) and policy.overlap is not Overlap.ALLOW
        assert not (is_waiting and decision.fire)
        assert Fate.BUFFERED not in fates or policy.overlap is Overlap.BUFFER_ONE
        assert Fate.COALESCED not in fates or policy.misfire is Misfire.COALESCE
        reasons = {record.reason for record in decision.records if record.fate is Fate.MISSED}
        assert NOT_MADE_UP not in reasons or policy.misfire is Misfire.SKIP
        times = ScheduleTimes(policy, before)
        last_ms = max((record.last_ms for record in decision.records), default=None)
        if decision.fire is not None and policy.misfire is not Misfire.ALL:
            following = times.following(decision.fire.nominal_ms)
            assert following is None or times.due(following) > self.now, "the last one that is due is fired"
        for record in decision.records:
            is_late = grace_ms is not None and times.due(record.last_ms) < self.now - grace_ms
            assert is_late is (record.fate is Fate.MISSED and record.reason != NOT_MADE_UP)
        has_runs = policy.max_runs is None or decision.state.runs < policy.max_runs
        if last_ms is not None:
            assert decision.state.next_ms == (times.following(last_ms) if has_runs else None)
        return decision

    def apply(self, decision: Decision) -> None:
        """Take a decision over, after a look at whether it is a sound one."""
        before, after = self.state, decision.state
        covered = [
            record for record in decision.records if record.fate is not Fate.FIRED or not self.was_buffered(record)
        ]
        if before.buffered_ms is not None:
            covered = [record for record in covered if record.first_ms != before.buffered_ms]
        if covered:
            assert before.next_ms is not None
            assert covered[0].first_ms == before.next_ms
            end_ms = covered[-1].last_ms + 1
            assert ScheduleTimes(self.definition, before).due(covered[-1].last_ms) <= self.now
            passed = self.between(self.definition, before, before.next_ms, end_ms)
            buffered = sum(record.fate is Fate.BUFFERED for record in covered)
            assert sum(record.count for record in covered) + buffered == len(passed)
            assert after.next_ms is None or after.next_ms > passed[-1]
            is_once = isinstance(self.definition.trigger, Once)
            assert is_once or all(nominal_ms > self.edited for nominal_ms in passed[1:])
        else:
            assert after.next_ms == before.next_ms or after.next_ms is None
        if decision.fire is not None:
            assert self.definition.max_runs is None or before.runs < self.definition.max_runs
            self.fired.append(decision.fire.nominal_ms)
            self.pending.append(decision.fire.delivery_id)
        self.note(decision.records)
        self.state = after

    def was_buffered(self, record: Record) -> bool:
        return record.first_ms == self.state.buffered_ms

    def note(self, records: tuple[Record, ...]) -> None:
        for record in records:
            self.counts[record.fate] += record.count
            self.waiting += record.fate is Fate.BUFFERED
            self.waiting -= record.fate is not Fate.BUFFERED and self.was_buffered(record)
            assert record.first_ms <= record.last_ms
        for one, other in pairwise(records):
            assert one.last_ms < other.first_ms

    @staticmethod
    def between(definition: ScheduleDefinition, state: ScheduleState, first_ms: int, end_ms: int) -> list[int]:
        """The nominal times from one that is one up to a moment, one by one."""
        times = ScheduleTimes(definition, state)
        found, at = [], first_ms
        while at is not None and at < end_ms:
            found.append(at)
            following = times.following(at)
            if following is None:
                break
            at = following
        return found

    @invariant()
    def nothing_is_fired_twice(self) -> None:
        assert len(set(self.fired)) == len(self.fired)
        assert self.counts[Fate.FIRED] == len(self.fired)

    @invariant()
    def what_waits_is_accounted_for(self) -> None:
        if hasattr(self, "state"):
            assert self.waiting == (self.state.buffered_ms is not None)
            self.latest = max(self.now, self.latest)
            if self.waiting and not self.state.running and not self.state.refused:
                assert self.state.due_ms is not None
                assert self.state.due_ms <= self.latest, "nothing keeps it waiting"

    @invariant()
    def it_never_fires_ahead_of_time(self) -> None:
        if hasattr(self, "state"):
            assert self.state.due_ms is None or self.state.next_ms is None or self.state.due_ms >= self.state.next_ms \
                or self.state.refused or self.state.buffered_ms is not None  # fmt: skip
            assert ScheduleState.from_fields(self.state.to_fields()) == self.state


TestScheduleMachine = ScheduleMachine.TestCase
TestScheduleMachine.settings = settings(max_examples=times_factor(100), stateful_step_count=30, deadline=None)

#: In the rule: what is right, and what is not.
FAULTS = {
    "all that was missed is coalesced": ("if misfire is Misfire.ALL:", "if False:"),
    "what is to be skipped is coalesced": ("if misfire is Misfire.COALESCE:", "if True:"),
    "the grace is ignored": ("now_ms - grace_ms - 1)", "now_ms - grace_ms - 60_000)"),
    "fires overlap": ("bool(state.running) and definition.overlap is not Overlap.ALLOW", "False"),
    "a run too many": ("runs >= definition.max_runs", "runs > definition.max_runs"),
    "what has passed in a pause is fired": ("if first is None or catch_up:", "if True:"),
    "what is to be caught up is skipped": ("if first is None or catch_up:", "if first is None:"),
    "a wait never ends": ('after = replace(after, running="")', "after = replace(after)"),
    "a failure pauses nothing": ("if definition.pause_on_failure and", "if False and"),
    "what waits is lost by a pause": ("1, PAUSED),)\n    after", "1, PAUSED),)[:0]\n    after"),
    "a time is left out after a fire": (
        "window.following(fire.nominal_ms)",
        "window.following(fire.nominal_ms + 60_000)",
    ),
    "an edit fires what is overdue and all before it": (
        "record = Record(Fate.COALESCED, first, before, count - 1, into_ms=last)",
        "record = Record(Fate.COALESCED, first, before, count, into_ms=last)",
    ),
    "an edit forgets what waits": (
        "left = (Record(Fate.SKIPPED, state.buffered_ms, state.buffered_ms, 1, END),)",
        "left = ()",
    ),
    "what was coalesced counts once more": ("chosen, coalesced = last, count - 1", "chosen, coalesced = last, count"),
    "what waited is fired twice": ("after = replace(state, buffered_ms=None,", "after = replace(state,"),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=6))
def test_the_machine_finds_a_planted_fault(fault: str) -> None:
    assert_finds(ScheduleMachine, Fault(*FAULTS[fault], schedule_rule))


@given(st.text(max_size=20), st.integers(0, 2**42), st.integers(0, 10**8))
def test_a_jitter_is_the_same_each_time_and_within_its_bound(schedule_id: str, nominal_ms: int, bound_ms: int) -> None:
    jitter_ms = jitter_ms_of(schedule_id, nominal_ms, bound_ms)
    assert jitter_ms == jitter_ms_of(schedule_id, nominal_ms, bound_ms)
    assert 0 <= jitter_ms < max(1, bound_ms)


@settings(max_examples=times_factor(30), deadline=None)
@given(triggers, st.integers(0, 6900))
def test_a_jitter_keeps_the_order(trigger: Trigger, jitter_ms: int) -> None:
    definition = ScheduleDefinition(
        id="s", recipient=TaskRecipient("t"), trigger=trigger, jitter_s=jitter_ms / 1000
    )  # fmt: skip
    planned = preview(definition, begin(definition, BEGIN_MS), 30)
    assert all(nominal <= due <= nominal + jitter_ms for nominal, due in planned)
    assert all(due < nominal for (_, due), (nominal, _) in pairwise(planned))


def test_jitters_spread() -> None:
    jitters = [jitter_ms_of(f"s{number}", BEGIN_MS, 60_000) for number in range(1000)]
    by_tenth = [sum(place * 6000 <= jitter < (place + 1) * 6000 for jitter in jitters) for place in range(10)]
    assert min(by_tenth) > 60
