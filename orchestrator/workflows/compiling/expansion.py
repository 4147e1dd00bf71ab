"""The steps that a handler returns for the place of its own: checked, and compiled for the plan of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from celery import Task
from celery.canvas import Signature

from orchestrator.agents.expand import Expand
from orchestrator.core.errors import InvalidExpansion, InvalidWorkflow, NoAgents, UnknownAgent, UnknownMessage
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.workflows.expansion import Expanded, take_place
from orchestrator.core.workflows.plan import OnFailure, StepPlan
from orchestrator.workflows.canvas import fill_from_canvas, fill_from_list
from orchestrator.workflows.compiling.check import check_level, dependencies_of
from orchestrator.workflows.compiling.compiler import CompiledStep, CompiledWorkflow
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.references import Reference

#: Compiles a workflow whose first step has that number, with what its result is made of.
Compile = Callable[[Workflow, int, Any], CompiledWorkflow]


@dataclass(frozen=True, slots=True)
class NewSteps:
    """The steps that a handler has returned, as a workflow."""

    workflow: Workflow
    #: The names of those that have to end first.
    ends: tuple[str, ...]
    #: What the result is made of.
    final: Any

    @property
    def count(self) -> int:
        """Their number, with the join that ends them."""
        return len(self.workflow.steps) + 1


@dataclass(frozen=True, slots=True)
class CompiledExpansion:
    """The additions to the plan of a run: plans by number, of these the steps with messages, and what is recorded."""

    plans: Mapping[str, StepPlan]
    steps: tuple[CompiledStep, ...]
    expanded: Expanded


def new_steps(expand: Expand) -> NewSteps:
    """The steps of an :class:`Expand` as a workflow.

    Raises:
        InvalidExpansion: they cannot be steps; all problems are listed.
    """
    steps, options = expand.steps, expand.options
    try:
        if isinstance(steps, Workflow):
            return _of_workflow(steps, options)
        flow = Workflow("expansion")
        if isinstance(steps, Signature | Task):
            ends = fill_from_canvas(flow, steps, options)
            return NewSteps(flow, ends, flow.final)
        if isinstance(steps, str | bytes | Mapping) or not hasattr(steps, "__iter__"):
            raise InvalidExpansion(
                [f"{masked_repr(steps)} is no list of steps; allowed: a list, a canvas or a Workflow"]
            )
        ends = fill_from_list(flow, steps, options)
        return NewSteps(flow, ends, flow.final)
    except InvalidWorkflow as error:
        raise InvalidExpansion(error.problems) from error


def _of_workflow(flow: Workflow, options: Mapping[str, Any]) -> NewSteps:
    problems = []
    if options:
        problems.append(f"options {sorted(options)} with a workflow; allowed: none, its steps have their own")
    if flow.limit is not None:
        problems.append("max_running; allowed: none, its run has begun")
    if flow.on_failure == OnFailure.COMPENSATE:
        problems.append("on_failure='compensate'; allowed: none, that of its run counts")
    if problems:
        raise InvalidExpansion(problems)
    before = {name for step in flow.steps for name in dependencies_of(step)}
    ends = tuple(step.name for step in flow.steps if step.name not in before and not step.errback_of)
    final = {step.name: Reference(step.name) for step in flow.steps} if flow.final is None else flow.final
    return NewSteps(flow, ends, final)


def compiled_expansion(
    compile_steps: Compile, new: NewSteps, owner: str, name: str, replaced: StepPlan, first: int
) -> CompiledExpansion:
    """Compile new steps for the place of the step ``owner``, whose name in the run is ``name``.

    Raises:
        InvalidExpansion: they have faults; all are listed.
    """
    check_level(name)
    flow = new.workflow
    try:
        compiled = compile_steps(flow, first, new.final)
    except InvalidWorkflow as error:
        raise InvalidExpansion(error.problems) from error
    except (UnknownAgent, UnknownMessage, NoAgents) as error:
        raise InvalidExpansion([str(error)]) from error
    numbers = {step.name: first + place for place, step in enumerate(flow.steps)}
    item = owner.partition(".")[2]
    name = f"{name}[{item}]" if item else name
    named = [_named(step, name, replaced) for step in compiled.steps]
    errbacks = {numbers[step.name] for step in flow.steps if step.errback_of}
    plans = take_place(owner, replace(replaced, name=name), first, named, [numbers[end] for end in new.ends], errbacks)
    steps = tuple(replace(step, plan=plans[str(first + place)]) for place, step in enumerate(compiled.steps))
    return CompiledExpansion(plans, steps, Expanded(first, new.count, compiled.final))


def _named(step: CompiledStep, owner: str, replaced: StepPlan) -> StepPlan:
    """A new step's plan, under the name of the step that it replaces; its task is for errbacks that it inherits."""
    options = dict(step.plan.options)
    if "errbacks" in replaced.options and step.message is not None:
        options["task"] = step.message.task
    return replace(step.plan, name=f"{owner}/{step.plan.name}", options=options)
