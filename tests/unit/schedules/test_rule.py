"""The rule of a schedule, policy by policy."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.plan import backfill, preview, trigger
from orchestrator.core.schedules.rule import begin, decide, outcome, pause, refused, resume, update
from orchestrator.core.schedules.state import Counts, Decision, Fate, ScheduleState, delivery_id_of
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, Once, SteppedTimes
from orchestrator.core.schedules.values import TaskRecipient

S = 1000


def schedule(every_s: float = 10, **fields: Any) -> ScheduleDefinition:
    fields.setdefault("trigger", Interval(int(every_s * S)))
    return ScheduleDefinition(id="s", recipient=TaskRecipient("t"), **fields)


def run(definition: ScheduleDefinition, state: ScheduleState, now_ms: int) -> tuple[list[Decision], ScheduleState]:
    """Decide until nothing is due any more."""
    decisions: list[Decision] = []
    while (decision := decide(definition, state, now_ms)).state != state:
        decisions.append(decision)
        state = decision.state
    return decisions, state


def fired(decisions: list[Decision]) -> list[int]:
    return [decision.fire.nominal_ms for decision in decisions if decision.fire]


def total(decisions: list[Decision]) -> Counts:
    counts = [decision.counts for decision in decisions]
    return Counts(*(sum(getattr(c, name) for c in counts) for name in ("fired", "coalesced", "missed", "skipped")))


def test_an_interval_keeps_its_pace_whenever_it_is_looked_at() -> None:
    definition = schedule(10)
    state = begin(definition, 3 * S)
    nominal = []
    for now_ms in (13 * S, 27 * S, 33 * S):
        decisions, state = run(definition, state, now_ms)
        nominal += fired(decisions)
    assert nominal == [13 * S, 23 * S, 33 * S]
    assert state.next_ms == 43 * S


@pytest.mark.parametrize(
    ("misfire", "grace_s", "nominal", "counts"),
    [
        ("coalesce", None, [50 * S], Counts(1, 4)),
        ("coalesce", 25, [50 * S], Counts(1, 2, 2)),
        ("coalesce", 3, [], Counts(missed=5)),
        ("all", None, [10 * S, 20 * S, 30 * S, 40 * S, 50 * S], Counts(5)),
        ("all", 25, [30 * S, 40 * S, 50 * S], Counts(3, 0, 2)),
        ("skip", None, [50 * S], Counts(1, 0, 4)),
        ("skip", 3, [], Counts(missed=5)),
    ],
)
def test_what_was_not_fired_in_time_goes_by_the_misfire_policy(
    misfire: str, grace_s: float | None, nominal: list[int], counts: Counts
) -> None:
    definition = schedule(10, misfire=misfire, misfire_grace_s=grace_s)
    decisions, state = run(definition, begin(definition, 0), 54 * S)
    assert fired(decisions) == nominal
    assert total(decisions) == counts
    assert state.next_ms == 60 * S


def test_a_coalesced_fire_says_how_many_went_into_it() -> None:
    definition = schedule(10)
    decision = decide(definition, begin(definition, 0), 54 * S)
    assert decision.fire is not None
    assert decision.fire.coalesced == 4
    coalesced = decision.records[0]
    assert (coalesced.first_ms, coalesced.last_ms, coalesced.into_ms) == (10 * S, 40 * S, 50 * S)


def test_a_late_time_is_not_made_up_with_skip() -> None:
    definition = schedule(trigger=Once(5 * S), misfire="skip")
    decisions, state = run(definition, begin(definition, 0), 66 * S)
    assert fired(decisions) == []
    assert state.next_ms is None
    assert decisions[0].records[0].fate is Fate.MISSED


def test_while_one_runs_the_next_is_skipped_or_waits() -> None:
    definition = schedule(10, overlap="skip")
    decisions, state = run(definition, begin(definition, 0), 10 * S)
    (first,) = (decision.fire for decision in decisions)
    assert first is not None
    decisions, state = run(definition, state, 30 * S)
    assert total(decisions) == Counts(skipped=2)
    state = outcome(definition, state, first.delivery_id, is_handled=True, now_ms=31 * S).state
    assert fired(run(definition, state, 40 * S)[0]) == [40 * S]

    definition = schedule(10, overlap="buffer_one")
    decisions, state = run(definition, begin(definition, 0), 10 * S)
    decisions, state = run(definition, state, 20 * S)
    assert total(decisions) == Counts()
    assert state.buffered_ms == 20 * S
    decisions, state = run(definition, state, 40 * S)
    assert total(decisions) == Counts(skipped=2)
    state = outcome(definition, state, first.delivery_id, is_handled=False, now_ms=41 * S).state
    assert state.due_ms == 41 * S
    decisions, state = run(definition, state, 41 * S)
    assert fired(decisions) == [20 * S]
    assert state.next_ms == state.due_ms == 50 * S


def test_an_edit_delays_nothing_that_need_not_wait_any_more() -> None:
    """Regression: a time that had waited for an outcome was fired only with the next one, or never."""
    definition = schedule(10, overlap="buffer_one")
    _, state = run(definition, begin(definition, 0), 10 * S)
    _, state = run(definition, state, 20 * S)
    state = outcome(definition, state, state.running, is_handled=True, now_ms=21 * S).state
    for after in (schedule(10, overlap="buffer_one", max_runs=9), schedule(3600, overlap="buffer_one")):
        edited = update(definition, after, state, 22 * S).state
        assert edited.due_ms == 22 * S
        assert fired(run(after, edited, 22 * S)[0]) == [20 * S]


def test_once_overlap_is_allowed_what_waited_is_fired_first() -> None:
    """Regression: it was passed by the next nominal time, and was never fired if there was none."""
    definition = schedule(10, overlap="buffer_one")
    _, state = run(definition, begin(definition, 0), 10 * S)
    _, state = run(definition, state, 20 * S)
    assert state.running
    after = schedule(10, overlap="allow", end_ms=30 * S)
    edited = update(definition, after, state, 22 * S).state
    assert (edited.due_ms, edited.running) == (22 * S, "")
    decisions, state = run(after, edited, 30 * S)
    assert fired(decisions) == [20 * S, 30 * S]
    assert (state.buffered_ms, state.running, state.due_ms) == (None, "", None)


def test_a_failure_pauses_if_asked() -> None:
    definition = schedule(10, pause_on_failure=True)
    _, state = run(definition, begin(definition, 0), 10 * S)
    assert outcome(definition, state, "x", is_handled=True, now_ms=11 * S).state == state
    state = outcome(definition, state, "x", is_handled=False, now_ms=11 * S).state
    assert "x" in state.paused
    assert run(definition, state, 100 * S)[0] == []


def test_a_pause_skips_or_is_caught_up() -> None:
    definition = schedule(10)
    paused = pause(begin(definition, 0), "release", 5 * S).state
    assert paused.due_ms is None
    decision = resume(definition, paused, 35 * S)
    assert decision.counts == Counts(skipped=3)
    assert (decision.state.next_ms, decision.state.rev) == (40 * S, 3)
    state = resume(definition, paused, 35 * S, catch_up=True).state
    assert total(run(definition, state, 35 * S)[0]) == Counts(1, 2)


def test_a_refused_fire_is_tried_again_until_its_grace_is_over() -> None:
    definition = schedule(100, misfire_grace_s=5)
    state = begin(definition, 0)
    nominal = delivery_id_of("s", 100 * S)
    for late_s in range(6):
        decision = decide(definition, state, (100 + late_s) * S)
        assert decision.fire is not None
        assert decision.fire.delivery_id == nominal
        state = refused(state, "mailbox full", (100 + late_s) * S)
        assert decide(definition, state, (100 + late_s) * S).state == state
    decision = decide(definition, state, 106 * S)
    assert decision.counts == Counts(missed=1)
    assert decision.records[0].reason == "mailbox full"
    assert decision.state.refused == ""


def test_runs_start_and_end_bound_a_schedule() -> None:
    definition = schedule(10, max_runs=2, start_ms=35 * S)
    decisions, state = run(definition, begin(definition, 0), 35 * S)
    assert fired(decisions) == [35 * S]
    decisions, state = run(definition, state, 100 * S)
    assert state.next_ms is None
    definition = schedule(10, end_ms=30 * S)
    decisions, state = run(definition, begin(definition, 0), 100 * S)
    assert total(decisions) == Counts(1, 2)
    assert state.next_ms is None


def test_a_clock_that_is_set_back_refires_nothing() -> None:
    definition = schedule(10)
    _, state = run(definition, begin(definition, 0), 50 * S)
    assert run(definition, state, 20 * S)[0] == []
    assert fired(run(definition, state, 60 * S)[0]) == [60 * S]


def test_an_update_loses_and_doubles_nothing() -> None:
    before, after = schedule(10), schedule(7, misfire="all")
    state = begin(before, 0)
    assert update(before, schedule(10, jitter_s=3), state, 5 * S).state.next_ms == 10 * S
    changed = update(before, after, state, 5 * S).state
    assert (changed.next_ms, changed.rev) == (12 * S, 2)
    decision = update(before, after, state, 34 * S)
    assert decision.counts == Counts(coalesced=2)
    decisions, state = run(after, decision.state, 41 * S)
    assert fired(decisions) == [30 * S, 41 * S]
    paused = pause(begin(before, 0), "", 5 * S).state
    decision = update(before, after, paused, 34 * S)
    assert decision.counts == Counts(skipped=3)
    assert decision.state.next_ms == 41 * S
    assert decision.state.due_ms is None


def test_more_runs_revive_a_schedule_that_has_ended() -> None:
    before, after = schedule(10, max_runs=1), schedule(10, max_runs=2)
    _, state = run(before, begin(before, 0), 10 * S)
    assert state.next_ms is None
    assert update(before, after, state, 35 * S).state.next_ms == 40 * S


def test_an_imported_schedule_goes_on_from_its_last_run() -> None:
    definition = schedule(10)
    state = begin(definition, 25 * S, last_ms=8 * S)
    assert state.next_ms == 18 * S
    cron = schedule(trigger=Cron("* * * * *"))
    assert fired(run(cron, begin(cron, 200 * S, last_ms=61 * S), 200 * S)[0]) == [180 * S]


def test_a_trigger_by_hand_leaves_the_pace_alone() -> None:
    definition = schedule(10)
    state = begin(definition, 0)
    decision = trigger(definition, state, 4 * S, "x")
    assert decision.state == state
    assert decision.fire is not None
    assert decision.fire.delivery_id != delivery_id_of("s", 4 * S)
    assert decision.counts == Counts(1)


def test_a_backfill_fires_each_time_of_a_span_or_nothing() -> None:
    definition = schedule(10)
    state = begin(definition, 1000 * S, last_ms=0)
    assert fired(list(backfill(definition, state, (15 * S, 40 * S), "x"))) == [20 * S, 30 * S, 40 * S]
    with pytest.raises(InvalidPolicy, match="100000 nominal times"):
        list(backfill(definition, state, (1, 1_000_000 * S), "x"))


def test_a_preview_shows_what_comes() -> None:
    definition = schedule(10, max_runs=2)
    assert preview(definition, begin(definition, 0), 5) == [(10 * S, 10 * S), (20 * S, 20 * S)]
    with pytest.raises(InvalidPolicy):
        preview(definition, begin(definition, 0), 31_536_000)


def test_a_foreign_trigger_is_stepped_through() -> None:
    definition = schedule(trigger=Foreign("app.Mine"))
    times = SteppedTimes(lambda after_ms: after_ms - after_ms % (7 * S) + 7 * S)
    state = begin(definition, 0, times=times)
    decision = decide(definition, state, 30 * S, times)
    assert decision.counts == Counts(1, 3)
    with pytest.raises(TypeError, match="foreign"):
        decide(definition, state, 30 * S)


def test_a_state_is_kept_as_text() -> None:
    definition = schedule(10, overlap="buffer_one", max_runs=9)
    _, state = run(definition, begin(definition, 5), 21 * S)
    _, state = run(definition, state, 31 * S)
    state = pause(refused(state, "mailbox full", 1), "ä", 2).state
    assert ScheduleState.from_fields(state.to_fields()) == state
    ended = ScheduleState(None, None)
    assert ScheduleState.from_fields(ended.to_fields()) == ended
