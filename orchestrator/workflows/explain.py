"""Explains in words why each open step of a run waits, and how far its compensation has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.deliveries.outcome import Dead
from orchestrator.core.plural import counted
from orchestrator.core.spelling.nearest import meant
from orchestrator.core.workflows.run_state import OPEN_STATES, RunState
from orchestrator.workflows.records import ENDED_STATES, RunDetails, RunStatus, StepRecord, StepState, UndoRecord


def explain(details: RunDetails) -> list[str]:
    """A line on the run, on each step that has not ended, on each undo, and on each event that no step waits for."""
    waits_for: dict[str, list[str]] = {}
    ended = {step.name for step in details.steps if step.state in ENDED_STATES}
    for step in details.steps:
        if step.state is StepState.CALLING:
            waits_for[step.name] = [name for name in step.expansion if name not in ended]
        if step.state not in ENDED_STATES:
            for dependent in step.dependents:
                waits_for.setdefault(dependent, []).append(step.name)
    lines = [_run(details.status)]
    for step in details.steps:
        if step.state not in ENDED_STATES:
            lines.append(f"{step.name}: {_step(step, details.status, waits_for.get(step.name, []))}")
    lines += [f"{undo.name}: {_undo(undo, details.status)}" for undo in details.undos]
    for event in details.posted:
        if event not in details.awaited:
            lines.append(f"the event {event} was posted, and no step waits for it{meant(event, details.awaited)}")
    return lines


def _undo(undo: UndoRecord, status: RunStatus) -> str:
    match undo:
        case UndoRecord(state=StepState.SENT):
            return f"its message is out; delivery {status.uid}.{undo.number}"
        case UndoRecord(state=StepState.UNPLACED):
            return "unplaced: no living agent offers what it needs"
        case UndoRecord(state=StepState.WAITING):
            return "waits for its turn"
        case UndoRecord(outcome=Dead(reason, error, _, str(letter_id))):
            return f"dead: {reason}: {error}; replay its dead letter {letter_id}, or edit it, to have it compensated"
        case UndoRecord(outcome=Dead(reason, error)):
            return f"dead, without a dead letter: {reason}: {error}"
    return undo.state.value


def _run(status: RunStatus) -> str:
    paused = ", paused" if status.paused and status.state in OPEN_STATES else ""
    because = f" ({status.because})" if status.because else ""
    counts = ", ".join(f"{name} {number}" for name, number in _counts(status) if number)
    return f"{status.name} {status.id}: {status.state}{paused}{because}; {counts or 'no step has ended'}"


def _counts(status: RunStatus) -> Iterator[tuple[str, int]]:
    for name in ("open", "handled", "dead", "expired", "cancelled", "skipped"):
        yield name, getattr(status, name)


def _step(step: StepRecord, status: RunStatus, waits_for: list[str]) -> str:
    if status.state is RunState.QUEUED:
        return "begins once its run does, when fewer runs of its limit are out"
    if status.ended:
        return f"never began, for the run is {status.state}"
    match step.state:
        case StepState.SENT:
            queue = step.placed or (step.plan.queue if step.plan is not None else "")
            placed = f"placed with {step.placed}, which offers {', '.join(step.needs)}; " if step.placed else ""
            return f"{placed}its message is in {queue} or with a worker of it; delivery {status.uid}.{step.number}"
        case StepState.UNPLACED:
            return f"unplaced: {_no_agent(step)}"
        case StepState.ITEMS_SENT if step.items is not None:
            count, ended, unhandled = step.items
            failed = f", of these {unhandled} not handled" if unhandled else ""
            unplaced = f"; {step.unplaced} unplaced: {_no_agent(step)}" if step.unplaced else ""
            return f"{ended} of {counted(count, 'item')} have ended{failed}{unplaced}"
        case StepState.EXPANDED:
            return f"waits for the {counted(len(step.expansion), 'step')} that took its place: {_some(step.expansion)}"
        case StepState.CALLING:
            return f"waits for {_some(waits_for)}, which it has called"
        case StepState.SUSPENDED:
            event = step.plan.options.get("event") if step.plan is not None else None
            return f"waits for the event {event}" if event else "waits for its time"
        case StepState.READY:
            return "begins when the run is resumed" if status.paused else "begins as soon as it may"
    if not waits_for:
        return "an errback, begins if one of its steps is dead"
    return f"waits for {_some(waits_for)}"


def _no_agent(step: StepRecord) -> str:
    """The reason why a step, or an item, is unplaced."""
    candidates = f"none of {_some(step.candidates)} lives" if step.candidates else "no agent is known that does"
    within_ms = None if step.plan is None else step.plan.options.get("within_ms")
    fails = "" if within_ms is None else f"; it fails {within_ms / 1000:g} s after it could begin"
    return f"no living agent offers {', '.join(step.needs)}: {candidates}{fails}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
