"""The judge of placement finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.judge_placement import PlacementVerdict, judge_placement
from chaos.placed import CRANES, HAND, cranes_of
from chaos.run_records import RunRecord
from chaos.witness import Row
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run_state import RunState
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow
from orchestrator.workflows.records import RunStatus

LIGHT, HEAVY = CRANES

PLAN = {
    "0": StepPlan("lifted", dependents=(1,), undo=True, options={"needs": ["lift"]}),
    "1": StepPlan("welded", dependencies=1, options={"needs": ["lift", "weld"]}),
    "2": StepPlan("last", dependencies=1, queue="steps"),
}


def begun(step: str, by: str) -> Row:
    return Row(0, "begun", note={"step": f"abc.{step}", "by": by})


GOOD = [begun("0", LIGHT), begun("1", HEAVY), Row(0, "begun", note={"step": "abc.2"})]


def verdict(rows: list[Row], *letters: DeadLetter, ledger: LedgerRow | None = None, **states: str) -> PlacementVerdict:
    of_steps = {"0": "h", "1": "h", "2": "h", **{number[1:]: state for number, state in states.items()}}
    ends = [state for number, state in of_steps.items() if number != "2"]
    record = RunRecord(RunStatus("abc", "r", "placed", RunState.COMPLETED), PLAN, of_steps)
    row = ledger or LedgerRow(HEAVY, handled=ends.count("h"), dead=ends.count("d"))
    return judge_placement(rows, [record], letters, [LedgerRow("steps", handled=100), row])


def violation(*given: Any, **more: Any) -> str:
    (found,) = verdict(*given, **more).violations
    return found


def test_steps_with_agents_that_offer_what_they_need_are_no_violation() -> None:
    assert verdict(GOOD) == PlacementVerdict(placed=2)
    assert verdict([*GOOD, begun("0", HEAVY)]).violations == (), "it may be handled again, by another one"


@pytest.mark.parametrize(
    ("step", "by", "missing"), [("1", LIGHT, "weld"), ("1", HAND, "lift, weld"), ("u0", HAND, "lift")]
)
def test_a_step_with_an_agent_that_does_not_offer_what_it_needs_is_found(step: str, by: str, missing: str) -> None:
    rows = [*GOOD, begun("u0", LIGHT), begun(step, by)]
    assert f"{by} has begun it, and does not offer {missing}" in violation(rows, _u0="h")


def test_a_step_that_is_handled_and_was_begun_by_nobody_is_found() -> None:
    assert "step abc.1 needs lift, weld: it is handled, and nobody" in violation(GOOD[:1])


def test_a_step_that_is_dead_for_want_of_an_agent_is_found() -> None:
    assert "nobody could be found for" in violation(GOOD[:1], _1="d")
    assert verdict(GOOD[:1], DeadLetter("1-0", b"", HEAVY, "poison", delivery_id="abc.1"), _1="d").violations == ()


def test_a_ledger_of_the_cranes_that_says_otherwise_is_found() -> None:
    assert "says 3 handled, the runs 2" in violation(GOOD, ledger=LedgerRow(LIGHT, handled=3))
    assert "says 1 dead, the runs 0" in violation(GOOD, ledger=LedgerRow(LIGHT, handled=2, dead=1))


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_each_crane_is_hosted_by_one_worker(workers: int) -> None:
    assert [crane for worker in range(workers) for crane in cranes_of(worker, workers)] == [*CRANES]
