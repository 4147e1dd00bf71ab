"""Steps that have not ended after all: they begin again, or others take their place; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.workflows.plan import Kind, OnFailure, number_of
from orchestrator.core.workflows.run_state import DEAD_BY_DEPLOYMENT, STOPPED, RunState

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def retry(run: Run, step: str, was: str) -> None:
    """A step that was not handled begins again."""
    run.counts["failures"] -= 1
    if run.state in STOPPED:
        reopen(run, RunState.RUNNING)
        run._plan_work("r")
    run._forget_outcome(step, was)
    if step in run.maps and run.maps[step][1] > 0:
        # As if the items that were not handled had not been sent.
        ended, unhandled, items, _ = run.maps[step]
        run.maps[step] = [ended - unhandled, 0, items, ended - unhandled]
        run.states[step] = "m0"
        run._plan_work("x", step)
    else:
        run.maps.pop(step, None)
        run._release(step)


def remember_undo(run: Run, step: str) -> None:
    """A step has been handled. If its run has been compensated already, its compensation is still owed."""
    plan = run.plan[number_of(step)]
    if not plan.undo or (plan.kind is Kind.MAP and "." not in step):
        return
    run.undo.append(step)
    if run.state in (RunState.COMPENSATED, RunState.COMPENSATION_FAILED) or (
        run.state is RunState.CANCELLED and run.compensate and run.has_ended
    ):
        reopen(run, RunState.COMPENSATING)


def reopen(run: Run, state: RunState) -> None:
    """A run goes on, even if it has ended."""
    run._effects.revived |= run.has_ended
    run.state, run.has_ended = state, False


def compensate_after_all(run: Run) -> None:
    """A failure by the deployment has ended; a run that it has kept from its compensation may have failed otherwise."""
    is_owed = run.on_failure is OnFailure.COMPENSATE and run.undo and run.counts["failures"] > 0
    if run.state is RunState.FAILED and is_owed and run.counts["deploy_failures"] == 0:
        reopen(run, RunState.STOPPING)


def unfail(run: Run, step: str, was: str) -> bool:
    """A step that was not handled is replaced after a replay. Returns false if others have begun on its failure."""
    number = number_of(step)
    if run.plan[number].guarded:
        return False
    if "." not in step:
        run.counts["failures"] -= 1
    elif run.maps[number][1] > 0:
        ended, unhandled, items, sent = run.maps[number]
        run.maps[number] = [ended - 1, unhandled - 1, items, sent]
        if (of_map := run.states[number]) == "d":
            run.counts["failures"] -= 1
            run._forget_outcome(number, of_map)
            run.states[number] = "m"
    state = run.states[step]
    run._forget_outcome(step, was)
    if run.state in STOPPED and run.counts["failures"] == 0:
        reopen(run, RunState.RUNNING)
        run._plan_work("r")
    elif state == DEAD_BY_DEPLOYMENT:
        compensate_after_all(run)
    return True
