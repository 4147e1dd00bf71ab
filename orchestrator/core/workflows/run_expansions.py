"""Steps that take the place of the step whose handler has returned them, and errbacks; part of :mod:`.run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.core.workflows.plan import StepPlan, numbers_in
from orchestrator.core.workflows.run_retries import remember_undo, unfail
from orchestrator.core.workflows.run_state import FAILED, STOPPED, RunState, dead_outcome

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def expand(run: Run, step: str, outcome: Mapping[str, Any]) -> bool:
    """The steps that a step has returned take its place. Returns false if it is too late for them."""
    was = run.states.get(step, "")[:1]
    if (run.state is not RunState.RUNNING and run.state not in STOPPED) or step.startswith("u"):
        return False
    if was == "s":
        run.counts["open"] -= 1
    elif was not in FAILED or not unfail(run, step, was):
        return False
    begin = f"x{outcome['expanded']['first']}"
    run.states[step] = f"{begin},0"
    run.states[begin] = "h"
    run.outcomes[begin] = outcome
    # Its handler has run, so that its compensation comes after those of the steps that take its place.
    remember_undo(run, step)
    run._plan_work("d", begin)
    return True


def fail_expansion(run: Run, plan: StepPlan) -> None:
    """A step was not handled; if it is in the place of one that is guarded, that one is dead in the end."""
    owner = plan.options.get("fails", "")
    if run.states.get(owner, "")[:1] == "x":
        run.states[owner] = run.states[owner].partition(",")[0] + ",1"


def expansion_ended(run: Run, owner: str) -> None:
    """All steps have ended that are in the place of a step."""
    begin, _, failed = run.states[owner].partition(",")
    if begin[0] != "x":
        return
    if failed == "1":
        run._end_unsent(owner, dead_outcome("steps failed", "steps that took its place were not handled"))
    else:
        run._end_unsent(owner, run.outcomes[begin])


def call_errbacks(run: Run, step: str) -> None:
    """A step is dead: its errbacks begin, unless another step has called them."""
    options = run.plan[step].options
    for number in numbers_in(options.get("errbacks", "")):
        if str(number) not in run.states:
            of = {"task": options["task"]} if "task" in options else {}
            run.outcomes[f"e{number}"] = {"outcome": "dead", "step": step, **of}
            run._release(str(number))
