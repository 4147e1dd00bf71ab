"""How a run ends once none of its messages is out; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.workflows.plan import OnFailure
from orchestrator.core.workflows.run_state import RunState

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def end(run: Run, state: RunState) -> None:
    """A run has ended in that state."""
    # A pause ends with the run: what a replay releases later would wait for ever.
    run.state, run.has_ended, run.paused, run._effects.ended = state, True, False, state


def end_or_undo(run: Run) -> bool:
    """Nothing is out: end the run, or send its next compensation. Returns whether there is more to do."""
    match run.state:
        case RunState.RUNNING:
            if run.ready:
                return False
            if run.counts["failures"] > 0:
                run.state = RunState.STOPPING
                return True
            end(run, RunState.COMPLETED)
        case RunState.STOPPING | RunState.CANCELLED:
            wanted = run.compensate
            if run.state is RunState.STOPPING:
                # A failure that a deploy can repair is not compensated: a retry goes on.
                wanted = run.on_failure is OnFailure.COMPENSATE and run.counts["deploy_failures"] == 0
            if wanted and run.undo:
                run.state = RunState.COMPENSATING
                return True
            if not run.has_ended:
                cancelled = run.state is RunState.CANCELLED
                end(run, RunState.CANCELLED if cancelled else RunState.FAILED)
        case RunState.COMPENSATING:
            if run.paused:
                return False
            if run.undo:
                run._send(f"u{run.undo.pop()}")
                return True
            failed = run.counts["undo_failures"] > 0
            end(run, RunState.COMPENSATION_FAILED if failed else RunState.COMPENSATED)
    return False
