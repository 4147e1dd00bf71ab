"""Expansion: steps that take the place of one whose handler has returned them.

They are part of its run from then on, with numbers of their own. The step ends when all of them have. If nobody begins
on its failure, theirs is the run's, as that of any step; otherwise the step is dead in the end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from orchestrator.core.workflows.plan import Kind, StepPlan, When, numbers_in, ranges_text


@dataclass(frozen=True, slots=True)
class Expanded:
    """The outcome of a replaced step: the steps that take its place, and the parts of its result."""

    #: The member of the outcome that has it.
    FIELD: ClassVar[str] = "expanded"

    #: The number of the first new step; the others follow, and a join is the last.
    first: int
    count: int
    #: JSON data with references to the results of the new steps.
    final: Any = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        return {"first": self.first, "count": self.count, "final": self.final}


def take_place(
    owner: str,
    replaced: StepPlan,
    first: int,
    plans: Sequence[StepPlan],
    ends: Collection[int],
    errbacks: Collection[int] = (),
) -> dict[str, StepPlan]:
    """The steps as the plan of the run has them, with what begins them and the join that ends the step they replace.

    Args:
        owner: the number of the step that they replace, which may be an item of a map.
        replaced: the plan of that step.
        first: the number of the first of them; the others follow.
        plans: their plans, in which they have these numbers.
        ends: the numbers of those that have to end first.
        errbacks: the numbers of those that only begin on a failure.
    """
    begin, join = f"x{first}", first + len(plans)
    own = [_in_place(plan, owner, replaced, first + at in errbacks) for at, plan in enumerate(plans)]
    for number in ends:
        plan = own[number - first]
        own[number - first] = replace(plan, dependents=(*plan.dependents, join))
    own.append(
        StepPlan(f"{replaced.name}/*", Kind.JOIN, len(ends), When.ALL_ENDED, guarded=True, options={"of": owner})
    )
    roots = tuple(first + at for at, plan in enumerate(plans) if plan.dependencies == 0)
    begins = StepPlan(begin, Kind.JOIN, dependents=roots, options={"in": owner, "count": len(own)})
    return {begin: begins} | {str(first + at): plan for at, plan in enumerate(own)}


def _in_place(plan: StepPlan, owner: str, replaced: StepPlan, is_errback: bool) -> StepPlan:
    options: dict[str, Any] = dict(plan.options)
    if replaced.guarded and not plan.guarded and not is_errback:
        options["fails"] = owner
        plan = replace(plan, guarded=True)
    inherited = replaced.options.get("errbacks", "")
    if inherited and not is_errback:
        options["errbacks"] = ranges_text(sorted({*numbers_in(inherited), *numbers_in(options.get("errbacks", ""))}))
    return replace(plan, options=options)


def steps_in_place(plan: Mapping[str, StepPlan], states: Mapping[str, str]) -> dict[str, list[int]]:
    """The numbers of the steps that were added to a run, by the step that they replace, or that has called them."""
    found: dict[str, list[int]] = {}
    for begin in states:
        if begin.startswith("x") and begin in plan:
            first, options = int(begin[1:]), plan[begin].options
            found.setdefault(options["in"], []).extend(range(first, first + options["count"]))
    return {owner: sorted(numbers) for owner, numbers in found.items()}
