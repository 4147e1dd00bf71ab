"""Runs of workflows as Redis has them at the end of a chaos run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator import Orchestrator
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run_calls import CallList
from orchestrator.workflows.records import RunStatus


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its plan, and where each of its steps, items and compensations is."""

    status: RunStatus
    #: By the step's number.
    plan: Mapping[str, StepPlan]
    #: Of steps, items (``2.0``) and compensations (``u1``), by the first letter of their text in the rule.
    states: Mapping[str, str]
    #: The numbers that have an outcome.
    outcomes: frozenset[str] = frozenset()
    #: The calls of workflow functions, by the function's step.
    calls: Mapping[str, CallList] = field(default_factory=dict)


def read_runs(orchestrator: Orchestrator) -> list[RunRecord]:
    """All runs that Redis has."""
    store = orchestrator.runtime.store
    client: Any = store.client
    records = []
    for status in orchestrator.workflows.list():
        key = store.keys.run(status.uid)
        plan = {number.decode(): text.decode() for number, text in client.hgetall(f"{key}:plan").items()}
        states = {number.decode(): state.decode()[:1] for number, state in client.hgetall(f"{key}:states").items()}
        states = {number: state for number, state in states.items() if number[0].isdigit() or number[0] == "u"}
        records.append(
            RunRecord(
                status=status,
                plan={number: StepPlan.from_text(text) for number, text in plan.items() if number.isdigit()},
                states=states,
                calls={
                    step.decode(): CallList.from_text(calls.decode())
                    for step, calls in client.hgetall(f"{key}:calls").items()
                },
                outcomes=frozenset(number.decode() for number in client.hkeys(f"{key}:outcomes")),
            )
        )
    return records
