"""The judge of the workflows of a chaos run finds what it is there to find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chaos.judge_runs import LAG_MS, RunsVerdict, judge_runs
from chaos.run_records import RunRecord
from chaos.steps import STEPS
from chaos.witness import Row
from orchestrator.core.workflows.plan import Kind, StepPlan
from orchestrator.core.workflows.run_state import RunState
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow
from orchestrator.workflows.records import RunStatus

T = 1_000_000
UID = "abc"

#: Two steps, a join of them, and a step after it.
PLAN = {
    "0": StepPlan("left", dependents=(2,), undo=True),
    "1": StepPlan("right", dependents=(2,)),
    "2": StepPlan("both", Kind.JOIN, dependencies=2, dependents=(3,)),
    "3": StepPlan("last", dependencies=1, undo=True),
}
HANDLED = dict.fromkeys(PLAN, "h")

STARTED = [
    Row(T, "starting", note={"run": "r", "kind": "diamond"}),
    Row(T + 1, "started", note={"run": "r", "uid": UID}),
]


def ran(step: str, at_ms: int, **note: Any) -> list[Row]:
    return [
        Row(at_ms, "begun", node="w@h", note={"step": f"{UID}.{step}", **note}),
        Row(at_ms + 5, "over", node="w@h", note={"step": f"{UID}.{step}"}),
    ]


def acted(act: str, at_ms: int, came_to: str = "done") -> list[Row]:
    return [
        Row(at_ms, "asked", note={"uid": UID, "act": act}),
        Row(at_ms, "acted", note={"uid": UID, "act": act, "came_to": came_to}),
    ]


GOOD = [*STARTED, *ran("0", T + 10), *ran("1", T + 20), *ran("3", T + 30)]


def record(
    states: Mapping[str, str] = HANDLED, state: RunState = RunState.COMPLETED, plan: Any = PLAN, **more: Any
) -> RunRecord:
    counted = [letter for number, letter in states.items() if number[0] != "u"]
    names = {"h": "handled", "d": "dead", "c": "cancelled", "k": "skipped"}
    counts: dict[str, Any] = {name: counted.count(letter) for letter, name in names.items()}
    status = RunStatus(UID, "r", "flow", state, **{**counts, "ended_ms": T + 100, **more})
    outcomes = frozenset(number for number, letter in states.items() if letter in "hdc")
    return RunRecord(status, plan, states, outcomes)


def verdict(rows: list[Row], *records: RunRecord, letters: tuple[DeadLetter, ...] = ()) -> RunsVerdict:
    messages = [
        letter
        for one in records
        for number, letter in one.states.items()
        if "." in number or one.plan[number.removeprefix("u")].kind is Kind.TASK
    ]
    ledger = LedgerRow(STEPS, handled=messages.count("h"), dead=messages.count("d"))
    return judge_runs(rows, records, letters, [ledger])


def problems(rows: list[Row], one: RunRecord) -> list[str]:
    return [text.partition(": ")[2] for text in verdict(rows, one).violations]


def test_a_good_run_has_no_violation() -> None:
    said = verdict(GOOD, record())
    assert said.violations == ()
    assert (said.started, dict(said.states), said.repeated) == (1, {"completed": 1}, 0)


def test_a_step_that_is_out_when_its_run_has_ended_is_found() -> None:
    for letter in "ns":
        found = problems(GOOD[:-2], record({**HANDLED, "3": letter}))
        assert "its end is recorded, but these are out: ['3']" in found


def test_a_step_that_says_what_it_needs_is_not_in_the_mailbox_of_the_others() -> None:
    plan = {**PLAN, "3": StepPlan("last", dependencies=1, undo=True, options={"needs": ["lift"]})}
    ledger = LedgerRow(STEPS, handled=2)
    assert judge_runs(GOOD, [record(plan=plan)], (), [ledger]).violations == ()


def test_a_step_that_ran_twice_is_repeated_and_no_violation() -> None:
    said = verdict([*GOOD, *ran("1", T + 40)], record())
    assert (said.violations, said.repeated) == ((), 1)


def test_a_run_that_is_not_there_or_is_there_twice_is_found() -> None:
    assert verdict(STARTED).violations == (f"run lost: r ({UID})",)
    twice = [record(), record()]
    assert "2 runs of one id: r" in verdict(GOOD, *twice).violations
    assert verdict(ran("0", T)).violations == (f"a step of no run: {UID}.0",)
    assert "nobody has started it" in problems(GOOD[2:], record())


def test_a_run_that_has_not_ended_is_found() -> None:
    (said,) = problems(STARTED, record({"0": "s"}, RunState.RUNNING, open=1, ended_ms=0))
    assert said == "has not ended: {'0': 's'}"


@pytest.mark.parametrize(
    ("states", "state", "said"),
    [
        ({**HANDLED, "3": "c"}, RunState.COMPLETED, "step 3 is c"),
        ({"0": "h", "1": "h", "2": "h"}, RunState.FAILED, "no step of it is dead"),
        ({"0": "h", "1": "h", "2": "h"}, RunState.CANCELLED, "nobody has cancelled it"),
        (HANDLED, RunState.COMPENSATED, "compensated without a cause"),
        ({**HANDLED, "3": "s"}, RunState.COMPLETED, "its end is recorded, but these are out: ['3']"),
    ],
)
def test_an_end_without_a_cause_is_found(states: dict[str, str], state: RunState, said: str) -> None:
    assert said in problems(GOOD, record(states, state))


def test_counts_that_do_not_add_up_are_found() -> None:
    assert problems(GOOD, record(handled=3)) == ["it counts 3 as handled, of its steps 4 are"]
    assert problems(GOOD, record(open=1)) == ["it counts 1 as open"]
    good = record()
    lacks = RunRecord(good.status, good.plan, good.states, good.outcomes - {"3"})
    assert problems(GOOD, lacks) == ["either ended or recorded, but not both: ['3']"]
    ledger = LedgerRow(STEPS, handled=2)
    assert judge_runs(GOOD, [good], (), [ledger]).violations == (
        f"the ledger of {STEPS} says 2 handled, the runs say 3",
    )


def test_a_step_before_its_dependencies_is_found() -> None:
    rows = [*STARTED, *ran("0", T + 10), *ran("3", T + 15), *ran("1", T + 20)]
    assert problems(rows, record()) == ["step 3 began before 1, on which it depends, was over"]


def test_a_step_before_the_items_of_a_map_is_found() -> None:
    plan = {"0": StepPlan("items", Kind.MAP, dependents=(1,)), "1": StepPlan("total", dependencies=1)}
    states = {"0": "h", "0.0": "h", "0.1": "h", "1": "h"}
    rows = [*STARTED, *ran("0.0", T + 10), *ran("1", T + 20), *ran("0.1", T + 30)]
    assert problems(rows, record(states, plan=plan)) == ["step 1 began before 0.1, on which it depends, was over"]


def test_a_body_that_never_ran_or_was_given_something_else_is_found() -> None:
    assert problems(GOOD[:-2], record()) == ["step 3 is handled, but never ran to its end"]
    rows = [*GOOD[:-2], *ran("3", T + 30, numbers=[0, 2])]
    assert problems(rows, record()) == ["step 3 was given [0, 2]"]


def test_what_is_released_in_a_pause_is_found() -> None:
    first, rest = [*STARTED, *ran("0", T + 10)], [*ran("1", T + 20), *ran("3", T + 30)]
    paused = [*first, *acted("pause", T + 15), *rest, *acted("resume", T + 90)]
    assert problems(paused, record()) == ["step 3 began in a pause, in which 1 had ended"]
    resumed = [*first, *acted("pause", T + 15), *acted("resume", T + 16), *rest]
    assert problems(resumed, record()) == []
    too_late = [*first, *acted("pause", T + 15, "too late"), *rest, *acted("resume", T + 90)]
    assert problems(too_late, record()) == []


def test_what_begins_after_a_cancel_is_found_unless_its_worker_or_redis_was_stopped() -> None:
    states = {"0": "h", "1": "h", "2": "h"}
    begun = ran("1", T + 15 + LAG_MS + 1)
    rows = [*STARTED, *ran("0", T + 10), *acted("cancel", T + 15)]
    cancelled = record(states, RunState.CANCELLED)
    assert problems([*rows, *begun], cancelled) == [f"step 1 began {LAG_MS + 1} ms after the run was cancelled"]
    for kind, node in (("stop", "w"), ("redis", "redis")):
        stopped = Row(T + 20, "strike", node=node, note={"kind": kind, "for_s": 2})
        assert problems([*rows, stopped, *begun], cancelled) == []
    other = Row(T + 20, "strike", node="v", note={"kind": "stop", "for_s": 2})
    assert len(problems([*rows, other, *begun], cancelled)) == 1


def test_a_cancel_whose_answer_was_lost_may_have_been_recorded() -> None:
    rows = [*STARTED, *ran("0", T + 10), *ran("1", T + 12), *acted("cancel", T + 15, "too late")]
    assert problems(rows, record({"0": "h", "1": "h", "2": "h"}, RunState.CANCELLED)) == []
    assert problems([*GOOD, *acted("cancel", T + 50, "too late")], record()) == []


def test_compensations_out_of_order_or_beside_others_are_found() -> None:
    rows = [*GOOD, *acted("cancel", T + 40)]
    undone = record({**HANDLED, "u0": "h", "u3": "h"}, RunState.COMPENSATED)
    assert problems([*rows, *ran("u3", T + 50), *ran("u0", T + 60)], undone) == []
    (said,) = problems([*rows, *ran("u0", T + 50), *ran("u3", T + 60)], undone)
    assert said == "compensation u0 began before u3, although 3 depends on 0"
    beside = [*rows[:-4], *acted("cancel", T + 40), *ran("u3", T + 50), *ran("u0", T + 60), *ran("3", T + 70)]
    assert "step 3 began after a compensation" in problems(beside, undone)
    (said,) = problems([*rows, *ran("u3", T + 50)], record({**HANDLED, "u3": "h"}, RunState.COMPENSATED))
    assert said == "step 0 is handled, and not undone"


def test_each_handled_item_of_a_map_has_to_be_undone_and_the_map_itself_not() -> None:
    plan = {"0": StepPlan("items", Kind.MAP, undo=True)}
    rows = [*STARTED, *ran("0.0", T + 10), *ran("0.1", T + 20), *acted("cancel", T + 30), *ran("u0.1", T + 40)]
    states = {"0": "h", "0.0": "h", "0.1": "h", "u0.1": "h"}
    (said,) = problems(rows, record(states, RunState.COMPENSATED, plan))
    assert said == "step 0.0 is handled, and not undone"
    undone = record({**states, "u0.0": "h"}, RunState.COMPENSATED, plan)
    assert problems([*rows, *ran("u0.0", T + 50)], undone) == []


def test_a_dead_step_needs_a_cause() -> None:
    states = {"0": "h", "1": "d"}
    failed = record(states, RunState.FAILED)
    letter = DeadLetter("1-0", b"", STEPS, "retries exhausted", delivery_id=f"{UID}.1")
    broke = Row(T + 30, "broke", node="w@h", note={"step": f"{UID}.1"})
    rows = [*STARTED, *ran("0", T + 10), ran("1", T + 20)[0]]
    assert verdict([*rows, broke], failed, letters=(letter,)).violations == ()
    (said,) = verdict(rows, failed, letters=(letter,)).violations
    assert said == f"dead letter without cause (retries exhausted): {UID}.1 of diamond"
