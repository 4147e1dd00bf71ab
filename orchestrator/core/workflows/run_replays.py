"""Outcomes of dead letters that were replayed; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.workflows.plan import number_of
from orchestrator.core.workflows.run_calls import CALLER, call_revived, has_letter_out
from orchestrator.core.workflows.run_maps import is_unsent, item_ended
from orchestrator.core.workflows.run_retries import compensate_after_all, remember_undo, reopen
from orchestrator.core.workflows.run_state import (
    COMPENSATION_STATES,
    DEAD_BY_DEPLOYMENT,
    DEPLOYMENT_REASONS,
    ENDED,
    FAILED,
    STOPPED,
    RunState,
)

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def ended_again(run: Run, step: str, state: str, outcome: str, reason: str | None) -> None:
    """The replayed letter of a step has its outcome."""
    if outcome == "handled" and state != "h":
        revived(run, step, state[0])
    elif state == DEAD_BY_DEPLOYMENT and outcome == "dead" and reason not in DEPLOYMENT_REASONS:
        run._leave_deployment(step)
        run.states[step] = "d"
    if state == DEAD_BY_DEPLOYMENT:
        compensate_after_all(run)


def revived(run: Run, step: str, was: str) -> None:
    """A step that was not handled is handled after all, because its dead letter was replayed."""
    run._leave_deployment(step)
    run.states[step] = "h"
    if step.startswith("u"):
        run.counts["undo_failures"] -= 1
        if run.state is RunState.COMPENSATION_FAILED and run.counts["undo_failures"] == 0:
            run.state = run._effects.ended = RunState.COMPENSATED
        return
    run.counts[ENDED[was]] -= 1
    run.counts["handled"] += 1
    remember_undo(run, step)
    if "." in step:
        item_ended(run, number_of(step), True, again=True)
        return
    if CALLER in run.plan[step].options:
        call_revived(run, run.plan[step].options[CALLER])
        return
    if run.plan[step].guarded:
        # The steps that depend on it went on without it.
        return
    run.counts["failures"] -= 1
    if run.state is not RunState.RUNNING and run.state not in STOPPED:
        return
    run._plan_work("d", step)
    if run.counts["failures"] == 0:
        reopen(run, RunState.RUNNING)
        run._plan_work("r")


def why_not_replayed(run: Run, step: str) -> str:
    """Why a dead letter of a step is not replayed; empty if it may be."""
    if run.state in COMPENSATION_STATES and not step.startswith("u"):
        return "run ended"
    is_failed = run.states.get(step, "")[:1] in FAILED
    may_be = is_failed and not has_letter_out(run, step) and not is_unsent(run, step)
    return "" if may_be else "step goes on"
