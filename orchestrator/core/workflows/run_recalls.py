"""Messages that are taken back, and steps that are parked; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.workflows.run_maps import is_idle
from orchestrator.core.workflows.run_placement import move
from orchestrator.core.workflows.run_state import STOPPED, RunState

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def send_ready(run: Run) -> int | None:
    """Begin what was parked."""
    while run.state is RunState.RUNNING and not run.paused and run.ready:
        if run._left <= 0:
            return 0
        run._left -= 1
        step = run.ready.popleft()
        if run.states[step] == "r":
            run._begin(step)
        elif run.states[step][0] == "m":
            run._plan_work("x", step)
    return None


def recall(run: Run, kind: str) -> None:
    """Go through all steps: take back what is out (pause, cancel), end waits (cancel) or park them (failure)."""
    run._left -= 1
    if not {
        "p": run.paused,
        "c": run.state is RunState.CANCELLED,
        "w": run.state in STOPPED,
        "a": run.state is not RunState.CANCELLED,
    }[kind]:
        return
    for step, state in list(run.states.items()):
        letter = state[0]
        if kind == "a":
            if letter == "s" and step in run.placed:
                run._left -= 1
                move(run, step)
        elif letter == "n":
            run.unplaced.pop(step)
            run._taken_back(step, cancelled=kind == "c")
        elif letter == "s" and kind != "w":
            run._left -= 1
            if run.take_back(step, kind == "c"):
                run._taken_back(step, cancelled=kind == "c")
        elif letter == "u" and kind != "p":
            run.counts["open"] -= 1
            if kind == "c":
                run._cancelled(step)
            else:
                run._park(step)
        elif kind == "c" and ends_by_cancel(run, step, state):
            run._cancelled(step)


def ends_by_cancel(run: Run, step: str, state: str) -> bool:
    """Whether a step without a message ends once its run is cancelled; ``state`` is what it was just now."""
    if state[0] in "xy":
        return run.states[step] == state
    return (state[0] == "r" and "." in step) or (state[0] == "m" and is_idle(run, step))
