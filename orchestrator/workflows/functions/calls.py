"""The calls of a workflow function as steps of its run: checked, and compiled for its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.errors import InvalidExpansion, InvalidWorkflow, NoAgents, UnknownAgent, UnknownMessage
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run_calls import Suspended, calls_of
from orchestrator.workflows.compiling.check import check_level
from orchestrator.workflows.compiling.compiler import CompiledStep
from orchestrator.workflows.compiling.expansion import Compile
from orchestrator.workflows.definition import StepDefinition, Workflow


@dataclass(frozen=True, slots=True)
class NewCalls:
    """The calls that an execution ends with."""

    definitions: Sequence[StepDefinition]
    #: The number of entries that the function's history has, and what is added to it.
    after: int
    entries: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class CompiledCalls:
    """The additions to the plan of a run: plans by number, of these the steps with messages, and what is recorded."""

    plans: Mapping[str, StepPlan]
    steps: tuple[CompiledStep, ...]
    suspended: Suspended


def compiled_calls(compile_steps: Compile, calls: NewCalls, caller: str, name: str, first: int) -> CompiledCalls:
    """Compile calls of the step ``caller``, whose name in the run is ``name``.

    Raises:
        InvalidExpansion: they have faults; all are listed.
    """
    suspended = Suspended(first, len(calls.definitions), calls.after, tuple(calls.entries))
    if not calls.definitions:
        return CompiledCalls({}, (), suspended)
    check_level(name)
    flow = Workflow("calls")
    for definition in calls.definitions:
        flow._add(definition)
    try:
        compiled = compile_steps(flow, first, None)
    except InvalidWorkflow as error:
        raise InvalidExpansion(error.problems) from error
    except (NoAgents, UnknownAgent, UnknownMessage) as error:
        raise InvalidExpansion([str(error)]) from error
    item = caller.partition(".")[2]
    name = f"{name}[{item}]" if item else name
    named = [replace(step.plan, name=f"{name}/{step.plan.name}") for step in compiled.steps]
    plans = calls_of(caller, first, named)
    steps = tuple(replace(step, plan=plans[str(first + place)]) for place, step in enumerate(compiled.steps))
    return CompiledCalls(plans, steps, suspended)
