"""Steps that wait for an event or a time; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.core.workflows.placement import UNPLACED, unplaced_error
from orchestrator.core.workflows.plan import number_of
from orchestrator.core.workflows.run_state import dead_outcome

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def begin_wait(run: Run, step: str) -> None:
    """A step begins to wait, unless its event has come before."""
    options = run.plan[step].options
    run.counts["open"] += 1
    event = options.get("event")
    if event and event in run.events:
        happened(run, step, run.events[event])
        return
    run.states[step] = "u"
    if options.get("ms") is not None:
        run._effects.timers.append((step, options["ms"]))


def happened(run: Run, step: str, payload: Any) -> None:
    """The event that a step waited for has happened."""
    run.counts["open"] -= 1
    run._end_unsent(step, {"outcome": "handled", "attempts": 0, "result": payload})


def event_came(run: Run, event: str, at: int) -> int | None:
    """End the waits for an event; returns where to go on if it has done enough."""
    steps = [number for number, plan in run.plan.items() if plan.options.get("event") == event]
    for place in range(at, len(steps)):
        if run._left <= 0:
            return place
        run._left -= 1
        if run.states.get(steps[place]) == "u":
            happened(run, steps[place], run.events[event])
    return None


def time_came(run: Run, step: str) -> None:
    """The time of a wait has come, or of an unplaced step."""
    if run.states.get(step) == "n":
        run.counts["open"] -= 1
        run.unplaced.pop(step)
        needs = run.plan[number_of(step)].options["needs"]
        run._end_unsent(step, dead_outcome(UNPLACED, unplaced_error(needs)))
    elif run.states.get(step) == "u":
        if run.plan[step].options.get("event"):
            run.counts["open"] -= 1
            run._end_unsent(step, dead_outcome("timeout", "the event did not come in time"))
        else:
            happened(run, step, None)
