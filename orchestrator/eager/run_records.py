"""The status and the details of a run in eager mode, as users read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.workflows.expansion import steps_in_place
from orchestrator.core.workflows.run import Run
from orchestrator.core.workflows.run_state import RunState
from orchestrator.eager.in_memory_run import InMemoryRun
from orchestrator.workflows.records import RunDetails, RunStatus, failed_undos, status_from, step_records, undo_records
from orchestrator.workflows.steps.arguments import ItemCount, Outcomes, outcome_in_run


def status_of(run: InMemoryRun) -> RunStatus:
    """A run as it is now."""
    rule = run.rule
    fields: dict[str, Any] = {
        **rule.counts,
        "id": run.id,
        "name": run.compiled.name,
        "state": rule.state,
        "paused": "1" if rule.paused else "",
        "total": len(run.compiled.steps) + sum(map(len, steps_in_place(rule.plan, rule.states).values())),
        "because": run.because,
        "started_ms": run.started_ms,
        "ended_ms": run.ended_ms,
    }
    return status_from(run.uid, fields)


def details_of(run: InMemoryRun) -> RunDetails:
    """A run with its steps."""
    rule = run.rule
    states = {step: _state(rule, step) for step in rule.states}
    candidates = {
        number: [candidate.supervision.agent for candidate in step.placement.candidates]
        for number, step in run.steps.items()
        if step.placement is not None
    }
    steps = step_records(rule.plan, states, rule.maps, len(run.compiled.steps), candidates)
    owed = rule.undo if rule.state is RunState.COMPENSATING else ()
    undos = undo_records(rule.plan, states, owed, {step: outcome_of(run, step) for step in failed_undos(states)})
    return RunDetails(status_of(run), steps, tuple(sorted(rule.events)), undos)


def outcome_of(run: InMemoryRun, number: str) -> Outcome | None:
    """The outcome of a step or an item."""
    outcome = run.rule.outcomes.get(number)
    return None if outcome is None else outcome_in_run(outcome, *readers(run))


def readers(run: InMemoryRun) -> tuple[Outcomes, ItemCount]:
    """Two functions: one reads the outcomes of steps by number, one counts the items of a map."""
    rule = run.rule

    def outcomes(numbers: Sequence[str]) -> list[Any]:
        return [rule.outcomes.get(number) for number in numbers]

    return outcomes, lambda number: rule.maps.get(number, [0, 0, 0, 0])[2]


def _state(rule: Run, step: str) -> str:
    # As Redis has it: with the candidate's place where the step was placed.
    state = rule.states[step]
    return f"s,{rule.placed[step] + 1}" if state == "s" and step in rule.placed else state
