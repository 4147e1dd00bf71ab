"""The rule of a schedule under any order of events: clocks that jump, edits, pauses, refusals, lost and late outcomes.

Held after each step: nominal times are decided in order and each once; what a step decides is exactly what lies between
the next time before and after it; no time is fired twice; jitter keeps the order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.schedule_definition import ScheduleDefinition
from orchestrator.core.schedule_plan import preview, trigger
from orchestrator.core.schedule_rule import begin, decide, outcome, pause, refused, resume, update
from orchestrator.core.schedule_state import Counts, Decision, Fate, Record, ScheduleState, jitter_ms_of
from orchestrator.core.schedule_times import ScheduleTimes
from orchestrator.core.schedule_values import Misfire, Overlap, TaskRecipient
from orchestrator.core.triggers import Cron, Interval, Once, Trigger

S = 1000
BEGIN_MS = 1_792_886_400_000

triggers: st.SearchStrategy[Trigger] = st.one_of(
    st.integers(7, 60).map(lambda every_s: Interval(every_s * S)),
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *"]).map(lambda text: Cron(text, "Europe/Berlin")),
    st.integers(0, 600).map(lambda after_s: Once(BEGIN_MS + after_s * S)),
)
policies = st.fixed_dictionaries(
    {
        "misfire": st.sampled_from(Misfire),
        "overlap": st.sampled_from(Overlap),
        "misfire_grace_s": st.none() | st.integers(0, 300),
        "max_runs": st.none() | st.integers(1, 4),
        "jitter_s": st.sampled_from([0, 6.9]),
        "pause_on_failure": st.booleans(),
        "end_ms": st.none() | st.integers(BEGIN_MS + 1, BEGIN_MS + 3_600_000),
        "start_ms": st.none() | st.integers(BEGIN_MS - 3_600_000, BEGIN_MS),
    }
)


class ScheduleMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN_MS
        self.fired: list[int] = []
        self.pending: list[str] = []
        self.counts: dict[Fate, int] = dict.fromkeys(Fate, 0)
        #: When other times were put in force; those before that are not made up for.
        self.edited = 0

    @initialize(trigger=triggers, policies=policies)
    def add(self, trigger: Trigger, policies: dict[str, Any]) -> None:
        self.definition = ScheduleDefinition(id="s", recipient=TaskRecipient("t"), trigger=trigger, **policies)
        self.state = begin(self.definition, self.now)

    @rule(ms=st.one_of(st.integers(0, 20 * S), st.integers(0, 20 * 60 * S), st.just(86_400_000)))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(ms=st.integers(0, 3600 * S))
    def clock_is_set_back(self, ms: int) -> None:
        self.now = max(BEGIN_MS, self.now - ms)

    @rule(is_full=st.booleans())
    def beat_looks(self, is_full: bool) -> None:
        decision = decide(self.definition, self.state, self.now)
        if decision.fire is not None and is_full:
            self.state = refused(self.state, "mailbox full", self.now)
            return
        self.apply(decision)

    @rule(steps_ms=st.lists(st.integers(0, 90 * S), min_size=1, max_size=5))
    def beat_works_off_what_is_due(self, steps_ms: list[int]) -> None:
        for step_ms in steps_ms:
            self.now += step_ms
            self.work_off()

    def work_off(self) -> None:
        for _ in range(20_000):
            decision = decide(self.definition, self.state, self.now)
            if decision.state == self.state:
                break
            self.apply(decision)
        waits_for_outcome = self.state.buffered_ms is not None and self.state.running
        assert self.state.due_ms is None or self.state.due_ms > self.now or waits_for_outcome

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), is_handled=st.booleans())
    def outcome_is_recorded(self, data: st.DataObject, is_handled: bool) -> None:
        delivery_id = data.draw(st.sampled_from(self.pending))
        self.pending.remove(delivery_id)
        self.apply(outcome(self.definition, self.state, delivery_id, is_handled=is_handled, now_ms=self.now))
        assert self.state.running != delivery_id

    @rule()
    def operator_pauses(self) -> None:
        self.apply(pause(self.state, "release", self.now))
        assert self.state.due_ms is None

    @rule(catch_up=st.booleans())
    def operator_resumes(self, catch_up: bool) -> None:
        self.apply(resume(self.definition, self.state, self.now, catch_up=catch_up))
        assert not self.state.paused

    @rule()
    def operator_triggers(self) -> None:
        decision = trigger(self.definition, self.state, self.now, str(len(self.fired)))
        assert decision.state == self.state
        assert decision.counts == Counts(1)

    @rule(trigger=st.none() | triggers, policies=policies)
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
    def it_never_fires_ahead_of_time(self) -> None:
        if hasattr(self, "state"):
            assert self.state.due_ms is None or self.state.next_ms is None or self.state.due_ms >= self.state.next_ms \
                or self.state.refused or self.state.buffered_ms is not None  # fmt: skip
            assert ScheduleState.from_fields(self.state.to_fields()) == self.state


TestScheduleMachine = ScheduleMachine.TestCase
TestScheduleMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.text(max_size=20), st.integers(0, 2**42), st.integers(0, 10**8))
def test_a_jitter_is_the_same_each_time_and_within_its_bound(schedule_id: str, nominal_ms: int, bound_ms: int) -> None:
    jitter_ms = jitter_ms_of(schedule_id, nominal_ms, bound_ms)
    assert jitter_ms == jitter_ms_of(schedule_id, nominal_ms, bound_ms)
    assert 0 <= jitter_ms < max(1, bound_ms)


@settings(max_examples=30, deadline=None)
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
