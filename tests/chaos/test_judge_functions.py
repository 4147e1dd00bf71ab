"""The judge of workflow functions finds calls that are lost, doubled or early."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.functions import FUNCTIONS
from chaos.judge_runs import judge_runs
from chaos.run_records import RunRecord
from chaos.steps import STEPS
from chaos.witness import Row
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run_calls import CallList
from orchestrator.core.workflows.run_state import RunState
from orchestrator.sending.ledger import LedgerRow
from orchestrator.workflows.records import RunStatus

UID = "abc"
CALL = {"caller": "0"}
PLAN = {
    "0": StepPlan("errand", queue=FUNCTIONS),
    "1": StepPlan("errand/call-1", queue=STEPS, options=CALL),
    "2": StepPlan("errand/call-2", queue=STEPS, options=CALL),
    "3": StepPlan("errand/call-3", queue=STEPS, options=CALL),
    # Written by an execution that was killed.
    "4": StepPlan("errand/call-3", queue=STEPS, options=CALL),
}
CALLS = {"0": CallList(3, "1-2,3-3")}
STATES = {"0": "h", "1": "h", "2": "d", "3": "h"}


def _ran(step: str, at_ms: int, over: str = "over") -> list[Row]:
    note = {"step": f"{UID}.{step}"}
    return [Row(at_ms, "begun", node="w@h", note=note), Row(at_ms + 1, over, node="w@h", note=note)]


STARTED = [
    Row(1, "starting", note={"run": "r", "kind": "function"}),
    Row(2, "started", note={"run": "r", "uid": UID}),
]


def _problems(rows: list[Row], calls: dict[str, CallList] = CALLS, handled: int = 3, **states: str) -> list[str]:
    all_states = {**STATES, **{number.removeprefix("s"): state for number, state in states.items()}}
    letters = list(all_states.values())
    counts: dict[str, Any] = {"handled": letters.count("h"), "dead": letters.count("d")}
    status = RunStatus(UID, "r", "errand", RunState.COMPLETED, ended_ms=100, **counts)
    record = RunRecord(status, PLAN, all_states, frozenset(all_states), calls)
    steps = [state for number, state in all_states.items() if number != "0"]
    ledger = [LedgerRow(STEPS, handled=steps.count("h"), dead=steps.count("d")), LedgerRow(FUNCTIONS, handled=handled)]
    found = judge_runs([*STARTED, *rows], [record], [], ledger)
    return [text.rpartition("): ")[2] for text in found.violations]


GOOD = [*_ran("1", 10), *_ran("2", 11, "broke"), *_ran("3", 20), *_ran("0", 30)]


def test_a_function_that_catches_a_failure_has_no_violation() -> None:
    assert _problems(GOOD) == []


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ({"0": CallList(3, "1-2,3-3,4-4")}, "the calls of step 0 are [1, 2, 3, 3]"),
        ({"0": CallList()}, "step 0 is handled, and has called nothing"),
    ],
)
def test_calls_that_are_missing_or_doubled_are_found(calls: dict[str, CallList], said: str) -> None:
    assert said in _problems(GOOD, calls)


def test_a_call_that_begins_early_is_found() -> None:
    rows = [*_ran("3", 9), *_ran("1", 10), *_ran("2", 11, "broke"), *_ran("0", 30)]
    assert _problems(rows) == ["call 3 began before 1 was over"]


def test_an_execution_that_is_not_counted_is_found() -> None:
    assert _problems(GOOD, handled=2) == ["the ledger of functions says 2 handled, the runs say 3 executions"]
