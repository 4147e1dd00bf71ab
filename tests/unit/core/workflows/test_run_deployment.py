"""Failures by what is deployed compensate nothing: the rule of runs."""

from __future__ import annotations

import pytest

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.workflows.plan import Kind, OnFailure
from orchestrator.core.workflows.run import Run
from orchestrator.core.workflows.run_state import RunState
from tests.support.runs_under_test import plan_of

HANDLED = {"outcome": "handled", "result": None}
REAL = {"outcome": "dead", "reason": "retries exhausted"}


def _run(steps: int) -> Run:
    """The first of the steps is handled, and has an undo; the others have begun."""
    step = {"kind": Kind.TASK, "after": [], "when": "all_handled", "undo": False, "options": {}}
    run = Run(plan_of([{**step, "undo": at == 0} for at in range(steps)]), OnFailure.COMPENSATE)
    run.start()
    run.step_ended("0", HANDLED)
    return run


def _dead(reason: str) -> dict[str, str]:
    return {"outcome": "dead", "reason": reason}


@pytest.mark.parametrize(
    "reason",
    [Reason.DEPLOYMENT, Reason.UNKNOWN_TASK, Reason.UNKNOWN_MESSAGE, Reason.UNSUPERVISED, Reason.MALFORMED],
)
def test_a_failure_by_the_deployment_is_not_compensated_and_a_retry_goes_on(reason: str) -> None:
    run = _run(2)
    assert (run.step_ended("1", _dead(reason)).send, run.state) == ([], RunState.FAILED)
    said, effects = run.retry("1")
    assert (said, effects.send, run.state) == ("done", ["1"], RunState.RUNNING)
    run.step_ended("1", HANDLED)
    assert (run.state, run.undo) == (RunState.COMPLETED, ["0"])


@pytest.mark.parametrize("reason", [Reason.VALIDATION, Reason.RESULT, Reason.POISON, Reason.FINAL, Reason.TIMEOUT])
def test_any_other_failure_is_compensated(reason: str) -> None:
    run = _run(2)
    assert (run.step_ended("1", _dead(reason)).send, run.state) == (["u0"], RunState.COMPENSATING)


def test_after_a_replayed_letter_is_handled_the_run_completes() -> None:
    run = _run(2)
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    run.step_ended("1", HANDLED)
    assert (run.state, run.counts["deploy_failures"]) == (RunState.COMPLETED, 0)


@pytest.mark.parametrize("after", [HANDLED, REAL])
def test_a_run_that_has_failed_otherwise_too_is_compensated_once_the_deployment_is_repaired(
    after: dict[str, str],
) -> None:
    run = _run(3)
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    run.step_ended("2", REAL)
    assert run.state is RunState.FAILED
    effects = run.step_ended("1", after)
    assert (effects.revived, effects.send, run.state) == (True, ["u0"], RunState.COMPENSATING)


def test_a_replay_that_fails_by_what_the_step_does_is_compensated() -> None:
    run = _run(2)
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    run.step_ended("1", _dead(Reason.UNKNOWN_TASK))
    assert run.state is RunState.FAILED
    assert run.step_ended("1", REAL).send == ["u0"]


def test_a_cancel_that_compensates_is_not_held_up() -> None:
    run = _run(3)
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    run.cancel(compensate=True)
    assert run.step_ended("2", HANDLED).send == ["u0"]


def test_a_run_that_the_deployment_holds_is_compensated_if_its_user_wants_it_so() -> None:
    run = _run(2)
    assert run.compensate_failed()[0] == "not ended"
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    said, effects = run.compensate_failed()
    assert (said, effects.revived, effects.send, run.state) == ("done", True, ["u0"], RunState.COMPENSATING)
    assert run.compensate_failed()[0] == run.retry("1")[0] == "run compensated"
    assert run.why_not_replayed("1") == "run ended"
    assert run.step_ended("u0", HANDLED).ended is RunState.COMPENSATED


def test_there_may_be_nothing_to_compensate() -> None:
    run = _run(2)
    run.undo.clear()
    run.step_ended("1", _dead(Reason.DEPLOYMENT))
    assert run.compensate_failed()[0] == "nothing to compensate"


def test_a_replay_that_ends_a_compensation_ends_the_run() -> None:
    run = _run(2)
    run.step_ended("1", REAL)
    assert run.step_ended("u0", REAL).ended is RunState.COMPENSATION_FAILED
    assert run.step_ended("u0", HANDLED).ended is RunState.COMPENSATED
