"""Forks a run: keeps the recorded outcomes of all steps that do not depend on what begins again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.core.workflows.expansion import steps_in_place
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.core.workflows.run_state import ENDED

#: Fields of a run that are its own: its state, its counts and its times.
OWN_FIELDS: Final = frozenset(
    {
        "state", "paused", "paused_with", "compensate", "because", "started_ms", "ended_ms", "open", "failures",
        "undo_failures", "deploy_failures", *ENDED.values(),
    }
)  # fmt: skip

#: What has the id of a fork if it cannot be returned as that fork.
ANOTHER_FORK: Final = "a run that is not a fork of the same run, after the same step, with the same deadline_s"


@dataclass(frozen=True, slots=True)
class ForkOrigin:
    """What a fork was asked for with, by which it is recognised if it is asked for again."""

    uid: str
    #: The number of the step after which it begins again.
    after: str
    deadline_ms: int | None

    def fields(self) -> dict[str, str]:
        """The fields of a fork in Redis."""
        deadline = "" if self.deadline_ms is None else str(self.deadline_ms)
        return {"fork_of": self.uid, "fork_after": self.after, "fork_deadline_ms": deadline}


def is_own(field: str) -> bool:
    """Whether a field of a run is its own: its forks do not have it."""
    return field in OWN_FIELDS or field.startswith("replayed:")


def kept_steps(plan: Mapping[str, StepPlan], states: Mapping[str, str], after: str, declared: int) -> set[str]:
    """The numbers of the steps that keep their outcomes if what is downstream of ``after`` begins again.

    A step that has not ended begins too, as does one whose failure was the run's, and all that depends on either. The
    steps that have taken the place of one go with it. ``declared`` is the number of the others.
    """
    own = {str(number): plan[str(number)] for number in range(declared)}
    begin = list(map(str, plan[after].dependents))
    begin += [number for number, step in own.items() if not _lasts(states.get(number, ""), step)]
    anew: set[str] = set()
    while begin:
        number = begin.pop()
        if number not in anew:
            anew.add(number)
            begin += map(str, plan[number].dependents)
    kept = set(own) - anew
    # An inner expansion has higher numbers than the one that it is in.
    for owner, numbers in sorted(steps_in_place(plan, states).items(), key=lambda one: one[1]):
        if number_of(owner) in kept:
            kept |= set(map(str, numbers))
    return kept


def _lasts(state: str, step: StepPlan) -> bool:
    letter = state[:1]
    return letter in ("h", "k") or (letter in ENDED and step.guarded)


def kept_states(states: Mapping[str, str], kept: Iterable[str]) -> dict[str, str]:
    """The states of these steps, of the items of those that are maps, and of what began their expansions."""
    numbers = set(kept)
    return {step: state for step, state in states.items() if number_of(step).removeprefix("x") in numbers}


def counts_of(states: Mapping[str, str]) -> dict[str, int]:
    """The number of steps and items by outcome."""
    counts: dict[str, int] = {}
    for step, state in states.items():
        if step[0].isdigit():
            name = ENDED[state[0]]
            counts[name] = counts.get(name, 0) + 1
    return counts


def to_resolve(plan: Mapping[str, StepPlan], kept: Iterable[str]) -> list[str]:
    """The kept steps on which others depend, so that these begin."""
    numbers = set(kept)
    return [n for n in sorted(numbers, key=int) if any(str(one) not in numbers for one in plan[n].dependents)]
