"""What a fork keeps."""

from __future__ import annotations

from orchestrator.core.workflows.expansion import take_place
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.workflows.fork import counts_of, kept_states, kept_steps, to_resolve

#: 0 -> 1 -> 3, 0 -> 2 -> 3, 3 -> 4.
PLAN = {
    "0": StepPlan("a", dependents=(1, 2)),
    "1": StepPlan("b", dependencies=1, dependents=(3,)),
    "2": StepPlan("c", dependencies=1, dependents=(3,)),
    "3": StepPlan("d", dependencies=2, dependents=(4,)),
    "4": StepPlan("e", dependencies=1),
}


def test_what_is_downstream_begins_again() -> None:
    states = dict.fromkeys(PLAN, "h")
    assert kept_steps(PLAN, states, "1", 5) == {"0", "1", "2"}
    assert kept_steps(PLAN, states, "0", 5) == {"0"}
    assert kept_steps(PLAN, states, "4", 5) == set(PLAN)
    assert to_resolve(PLAN, {"0", "1", "2"}) == ["1", "2"]


def test_what_had_not_ended_or_has_failed_begins_too_with_all_that_depends_on_it() -> None:
    assert kept_steps(PLAN, {"0": "h", "1": "h", "2": "d", "3": "k", "4": "k"}, "3", 5) == {"0", "1"}
    assert kept_steps(PLAN, {"0": "h", "1": "s1-0", "2": "h"}, "0", 5) == {"0"}


def test_a_failure_that_was_provided_for_is_kept() -> None:
    plan = {**PLAN, "2": StepPlan("c", dependencies=1, dependents=(3,), guarded=True)}
    assert "2" in kept_steps(plan, {"0": "h", "1": "h", "2": "d", "3": "h", "4": "h"}, "3", 5)


def test_the_items_of_a_kept_map_are_kept() -> None:
    states = {"0": "h", "1": "h", "1.0": "h", "1.1": "d", "10": "h", "start": "h"}
    assert kept_states(states, {"0", "1"}) == {"0": "h", "1": "h", "1.0": "h", "1.1": "d"}
    assert counts_of({"0": "h", "1": "h", "1.1": "d"}) == {"handled": 2, "dead": 1}


def test_steps_in_the_place_of_another_go_with_it() -> None:
    new = take_place("1", PLAN["1"], 5, [StepPlan("b/x"), StepPlan("b/y")], [5, 6])
    inner = take_place("6", new["6"], 8, [StepPlan("b/y/z")], [8])
    plan = {**PLAN, **new, **inner}
    states = dict.fromkeys(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "x5", "x8"], "h")
    assert kept_steps(plan, states, "1", 5) == {"0", "1", "2", "5", "6", "7", "8", "9"}
    assert set(kept_states(states, kept_steps(plan, states, "1", 5))) == set(states) - {"3", "4"}
    assert kept_steps(plan, states, "0", 5) == {"0"}
    assert set(kept_states(states, {"0"})) == {"0"}
