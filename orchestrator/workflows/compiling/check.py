"""The check of a workflow's definition: every fault of it at once, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.checks.numbers import is_number, is_whole_number
from orchestrator.core.errors import InvalidExpansion
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import meant
from orchestrator.core.workflows.placement import names_fault
from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.result_path import MARK
from orchestrator.workflows.definition import Limit, LimitStrategy, StepDefinition, Workflow, names_in, on_failure_fault
from orchestrator.workflows.references import Item, Reference, Results, has_mark, references_in

#: Most steps of a workflow, without the items of its maps.
MAX_STEPS: Final = 100_000

#: Most levels of steps that were called or returned by steps: each makes names longer.
MAX_LEVELS: Final = 100

#: Longest wait, in seconds: a year.
_MAX_WAIT_S: Final = 365 * 24 * 3600.0

#: Characters of a name that an error shows.
_SHOWN: Final = 200

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_level(caller: str) -> None:
    """Check how deep the steps are that the step with this name calls or returns.

    Raises:
        InvalidExpansion: they are too deep.
    """
    # Those of a declared step, whose own name has no slash, are on level 1.
    level = caller.count("/") + 1
    if level > MAX_LEVELS:
        name = caller if len(caller) <= _SHOWN else f"{caller[:_SHOWN]}…"
        raise InvalidExpansion([f"steps on level {level} below {name!r}; allowed: {MAX_LEVELS} levels"])


def is_name(name: object) -> bool:
    """Whether a workflow, a step or an event may have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def dependencies_of(step: StepDefinition) -> tuple[str, ...]:
    """The names of the steps that have to end first: those of ``after``, then those that are referred to."""
    names = dict.fromkeys(names_in(step.after))
    if step.after_is_all:
        return tuple(names)
    for reference in references_in([inputs_of(step), step.over]):
        if isinstance(reference, Reference):
            names[reference.step] = None
        elif isinstance(reference, Results):
            names.update(dict.fromkeys(reference.steps))
    return tuple(names)


def inputs_of(step: StepDefinition) -> Any:
    """The part of a step's message that may have references: its fields, or its signature's arguments."""
    return step.fields if step.fields is not None else arguments_of(step.message)


def problems_in(workflow: Workflow, dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """Every fault of a definition that can be seen without knowing the app; ``dependencies`` are those of each step."""
    steps = workflow.steps
    problems = list(_general(workflow))
    if len(steps) > MAX_STEPS:
        return problems
    known = {step.name: step for step in steps}
    seen: set[str] = set()
    for step in steps:
        found = [f": {problem}" for problem in _step(step, known, dependencies[step.name])]
        if not is_name(step.name):
            found.insert(0, ": allowed: letters, digits, '_', '.', '-', at most 100")
        elif step.name in seen:
            found.insert(0, " is declared twice")
        seen.add(step.name)
        if found:
            where = f"step {masked_repr(step.name)}"
            problems += [f"{where}{problem}" for problem in found]
    return problems + list(_cycles(known, dependencies))


def outlasting(workflow: Workflow, deadline_s: float) -> Iterator[StepDefinition]:
    """The steps that may take longer than the whole run."""
    for step in workflow.steps:
        timeout_s = step.options.get("timeout_s")
        if is_number(timeout_s) and timeout_s > deadline_s:
            yield step


def _limit(limit: Limit | None) -> Iterator[str]:
    if limit is None:
        return
    if not is_whole_number(limit.running) or limit.running < 1:
        yield f"max_running={masked_repr(limit.running)}; allowed: a whole number from 1"
    if limit.key is not None and not is_name(limit.key):
        yield f"limit key {masked_repr(limit.key)}: allowed: letters, digits, '_', '.', '-', at most 100"
    if limit.strategy not in list(LimitStrategy):
        yield f"limit strategy {masked_repr(limit.strategy)}; allowed: {', '.join(LimitStrategy)}"


def _general(workflow: Workflow) -> Iterator[str]:
    if not is_name(workflow.name):
        yield f"workflow {masked_repr(workflow.name)}: allowed: letters, digits, '_', '.', '-', at most 100"
    if workflow.on_failure not in list(OnFailure):
        yield on_failure_fault(workflow.on_failure)
    yield from _limit(workflow.limit)
    if not workflow.steps:
        yield "it has no steps"
    if len(workflow.steps) > MAX_STEPS:
        yield f"it has {len(workflow.steps)} steps; allowed: {MAX_STEPS} (a map counts once)"


def _step(step: StepDefinition, known: Mapping[str, StepDefinition], dependencies: Sequence[str]) -> Iterator[str]:
    if step.when not in list(When):
        yield f"when={masked_repr(step.when)}; allowed: {', '.join(When)}{meant(step.when, When)}"
    for name in dependencies:
        if name == step.name:
            yield "it depends on itself"
        elif name not in known:
            yield f"it depends on {name!r}, which is no step{meant(name, known)}"
    if not dependencies and step.when is not When.ALL_HANDLED and step.when in list(When):
        yield f"when={str(step.when)!r} without dependencies; allowed: all_handled"
    if step.kind is not Kind.MAP:
        inputs = [inputs_of(step), step.undo and arguments_of(step.undo)]
        if any(isinstance(one, Item) for one in references_in(inputs)):
            yield "ITEM stands for an item of a map, and this is none"
    else:
        yield from _map(step)
    if step.kind is Kind.WAIT:
        yield from _wait(step)
    if step.kind is Kind.JOIN and not step.after:
        yield "a join needs steps in after"
    yield from _placement(step)
    if has_mark(inputs_of(step)):
        yield f"its arguments have a member {MARK!r}, which is reserved"


def _map(step: StepDefinition) -> Iterator[str]:
    if not isinstance(step.over, Reference):
        allowed = "a step's result, or a part of it; of a known list, declare a step for each item"
        yield f"over={masked_repr(step.over)}; allowed: {allowed}"
    if step.limit is not None and (not is_whole_number(step.limit) or step.limit < 1):
        yield f"limit={masked_repr(step.limit)}; allowed: a whole number from 1"


def _placement(step: StepDefinition) -> Iterator[str]:
    within_s = step.options.get("place_within_s")
    if within_s is not None and (not is_number(within_s) or not 0 < within_s <= _MAX_WAIT_S):
        yield f"place_within_s={masked_repr(within_s)}; allowed: seconds above 0, at most a year"
    if step.needs is None:
        if within_s is not None:
            yield "place_within_s without needs; allowed: with needs"
        return
    if fault := names_fault(step.needs):
        yield f"needs={masked_repr(step.needs)}; {fault}"
    if step.to is not None:
        yield f"to={masked_repr(step.to)} with needs; allowed: one of them"


def _wait(step: StepDefinition) -> Iterator[str]:
    if step.event is None and step.wait_s is None:
        yield "a wait needs an event or seconds"
    if step.surplus is not None:
        given, value = step.surplus
        without, allowed = ("with", "timeout_s") if given == "seconds" else ("without", "with an event")
        yield f"{given}={masked_repr(value)} {without} an event; allowed: {allowed}"
    if step.event is not None and not is_name(step.event):
        yield f"event={masked_repr(step.event)}; allowed: letters, digits, '_', '.', '-', at most 100"
    if step.wait_s is not None and (not is_number(step.wait_s) or not 0 < step.wait_s <= _MAX_WAIT_S):
        name = "seconds" if step.event is None else "timeout_s"
        yield f"{name}={masked_repr(step.wait_s)}; allowed: seconds above 0, at most a year"


def arguments_of(message: Any) -> Any:
    """The arguments of a signature or a task; of a message none."""
    if isinstance(message, dict):
        # A signature, whose properties take longer.
        return [message.get("args", ()), message.get("kwargs", {})]
    return [getattr(message, "args", ()), getattr(message, "kwargs", {})]


def _cycles(known: Mapping[str, StepDefinition], dependencies: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The first cycle that is found, by the names of its steps."""
    waiting: dict[str, Sequence[str]] = {
        name: [one for one in dependencies[name] if one in known and one != name] for name in known
    }
    dependents: dict[str, list[str]] = {name: [] for name in known}
    counts = {name: len(names) for name, names in waiting.items()}
    for name, names in waiting.items():
        for one in names:
            dependents[one].append(name)
    free = [name for name, count in counts.items() if count == 0]
    while free:
        for dependent in dependents[free.pop()]:
            counts[dependent] -= 1
            if counts[dependent] == 0:
                free.append(dependent)
    stuck = {name for name, count in counts.items() if count > 0}
    if not stuck:
        return
    # Each of these waits for another of them, so that walking back ends in a cycle.
    path, at = [], next(iter(sorted(stuck)))
    while at not in path:
        path.append(at)
        at = next(name for name in waiting[at] if name in stuck)
    cycle = path[path.index(at) :]
    yield "steps depend on one another in a cycle: " + " -> ".join([*reversed(cycle), cycle[-1]])
