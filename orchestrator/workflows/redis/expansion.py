"""Writes steps that a handler has returned or called to its run's plan, before the outcome that begins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from orchestrator.core.errors import CallerError, InvalidExpansion, InvalidWorkflow
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.check import MAX_STEPS
from orchestrator.workflows.compiling.expansion import Compile, CompiledExpansion, NewSteps, compiled_expansion
from orchestrator.workflows.compiling.plan_writer import PlanWriter, waits_of
from orchestrator.workflows.functions.calls import CompiledCalls, NewCalls, compiled_calls
from orchestrator.workflows.redis import scripts

Made = TypeVar("Made", bound=CompiledExpansion | CompiledCalls)

#: Steps, and bytes of their plans, that one script writes.
_STEPS_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 1_000_000


def write_expansion(
    store: Store, writer: PlanWriter, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]
) -> Expanded | None:
    """Write new steps for the place of the step that ``run`` describes; ``None`` if its run takes none any more.

    Raises:
        InvalidExpansion: they have faults, are too many, or a message is larger than one may be.
        BrokerUnavailable: Redis is away.
    """

    def compiled(first: int, replaced: StepPlan) -> CompiledExpansion:
        return compiled_expansion(compile_steps, new, str(run["step"]), replaced.name, replaced, first)

    made = _write(store, writer, run, new.count, compiled)
    return None if made is None else made.expanded


def write_calls(
    store: Store, writer: PlanWriter, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]
) -> Suspended:
    """Write the calls of the function that ``run`` describes; they have no effect if its run takes none any more.

    Raises:
        InvalidExpansion: they have faults, are too many, or a message is larger than one may be.
        BrokerUnavailable: Redis is away.
    """

    def compiled(first: int, caller: StepPlan) -> CompiledCalls:
        return compiled_calls(compile_steps, calls, str(run["step"]), caller.name, first)

    made = _write(store, writer, run, len(calls.definitions), compiled)
    return Suspended(0, len(calls.definitions), calls.after) if made is None else made.suspended


def _write(
    store: Store, writer: PlanWriter, run: Mapping[str, Any], count: int, compiled: Callable[[int, StepPlan], Made]
) -> Made | None:
    """Write what is compiled once it has its numbers: for the first of them, and the plan of the step that adds it."""
    keys, uid, owner = store.keys, str(run["uid"]), str(run["step"])
    if count > MAX_STEPS:
        raise InvalidExpansion([f"it has {count - 1} steps; allowed: {MAX_STEPS} in a run"])
    allotted = store.run(*scripts.allot_steps(keys, uid, owner, number_of(owner), count, MAX_STEPS))
    first = int(allotted[0])
    if first == -2:
        has = int(allotted[1])
        raise InvalidExpansion([f"its run would have {has + count} steps; allowed: {MAX_STEPS}"])
    if first < 0:
        return None
    nonce, adds = allotted[1].decode(), StepPlan.from_text(allotted[2].decode())
    made = compiled(first, adds)
    try:
        texts, templates = writer.texts_of(made.steps, first, nonce)
    except InvalidWorkflow as error:
        raise InvalidExpansion(error.problems) from error
    except CallerError as error:
        # Too large, or no JSON data.
        raise InvalidExpansion([str(error)]) from error
    plans = {number: plan.to_text() for number, plan in made.plans.items() if number not in texts}
    waits = waits_of((number, plan) for number, plan in made.plans.items() if number.isdigit())
    for some in _slices([*templates.items()]):
        if not store.run(*scripts.write_steps(keys, uid, dict(some), {})):
            return None
    for some in _slices([*texts.items(), *plans.items(), *waits.items()]):
        if not store.run(*scripts.write_steps(keys, uid, {}, dict(some))):
            return None
    return made


def _slices(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    some: list[tuple[str, str]] = []
    size = 0
    for name, text in pairs:
        if some and (len(some) >= _STEPS_AT_ONCE or size + len(text) > _BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append((name, text))
        size += len(text)
    if some:
        yield some
