"""Steps that say what they need: placed with an agent, unplaced, and placed again; part of :mod:`.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def leave_unplaced(run: Run, step: str, within_ms: int | None) -> None:
    """No candidate of a step lives."""
    run.states[step] = "n"
    run.counts["open"] += 1
    run._left -= 1
    run.unplaced[step] = None
    if within_ms is not None:
        run._effects.timers.append((step, within_ms))


def place_unplaced(run: Run, count: int) -> int | None:
    """Try the first ``count`` of the unplaced steps again."""
    for left in range(min(count, len(run.unplaced)), 0, -1):
        if run._left <= 0:
            return left
        step = next(iter(run.unplaced))
        del run.unplaced[step]
        run._left -= 1
        candidate = run.place(step)
        if candidate is None:
            run.unplaced[step] = None
            continue
        run.placed[step] = candidate
        run.counts["open"] -= 1
        run._sent(step)
    return None


def move(run: Run, step: str) -> None:
    """A step whose agent is down is placed again, unless a worker has begun it."""
    if not run.is_down(step) or not run.take_back(step, False):
        return
    if step.startswith("u"):
        run._taken_back(step, cancelled=False)
        return
    run.counts["open"] -= 1
    run._release(step)
