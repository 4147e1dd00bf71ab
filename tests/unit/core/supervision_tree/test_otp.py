"""OTP's supervisor suite by meaning: the cases have its names."""

from __future__ import annotations

import pytest

from orchestrator.core.supervision_tree.spec import (
    INFINITY,
    ProcessSpec,
    Restart,
    Strategy,
    SupervisorSpec,
)
from orchestrator.core.supervision_tree.state import (
    Add,
    EndKind,
    Phase,
    Remove,
    Shutdown,
    Verdict,
)
from tests.support.tree_simulation import ABC, Simulation, process, starts, terms, tree

# -- sup_start_*


def test_sup_start_children_in_order_and_be_ready_when_they_are():
    simulation = Simulation(tree())

    assert simulation.log == starts(*ABC)
    assert simulation.ready


def test_sup_start_waits_for_each_child_before_the_next():
    simulation = Simulation(tree(), never_ready={"b"})

    assert simulation.log == starts("a", "b")
    assert not simulation.ready


def test_sup_start_ignore_a_temporary_child_that_ends_before_it_is_ready():
    spec = tree("one_for_one", process("a", "temporary"), process("b"))
    simulation = Simulation(spec, failing={"a": 1}, failure=EndKind.NORMAL)

    assert simulation.log == starts("a", "b")
    assert simulation.node("a").verdict is Verdict.DONE


def test_sup_start_error_of_a_child_is_counted_and_ends_the_tree_at_the_intensity():
    simulation = Simulation(tree(intensity=1), failing={"b": 9})

    assert simulation.log == [*starts("a", "b", "b"), *terms("a")]
    assert simulation.exit_code == 1


def test_sup_start_fail_that_passes_is_tried_again():
    simulation = Simulation(tree(), failing={"b": 2})

    assert simulation.log == starts("a", "b", "b", "b", "c")
    assert simulation.ready


def test_sup_start_map_faulty_configuration_is_not_tried_again():
    simulation = Simulation(tree(), failing={"b": 9}, failure=EndKind.CONFIG)

    assert simulation.log == starts("a", "b", "c")
    assert simulation.node("b").verdict is Verdict.CONFIG
    assert simulation.exit_code is None


# -- sup_stop_*


def test_sup_stop_in_reverse_order():
    simulation = Simulation(tree())
    simulation.log.clear()
    simulation.send(Shutdown())

    assert simulation.log == terms("c", "b", "a")
    assert simulation.exit_code == 0


def test_sup_stop_infinity_waits_for_ever():
    simulation = Simulation(tree("one_for_one", process("a", shutdown_s=INFINITY)), ignores_term={"a"})
    simulation.send(Shutdown())
    simulation.pass_time(1e9)

    assert simulation.exit_code is None
    assert simulation.node("a").phase is Phase.STOPPING


def test_sup_stop_timeout_kills_after_the_time():
    simulation = Simulation(tree("one_for_one", process("a", shutdown_s=10.0), process("b")), ignores_term={"a"})
    simulation.log.clear()
    simulation.send(Shutdown())
    simulation.pass_time(9.9)
    assert simulation.exit_code is None
    simulation.pass_time(0.2)

    assert simulation.log == [*terms("b", "a"), "SIGKILL a"]
    assert simulation.exit_code == 0


def test_sup_stop_sends_sigquit_before_it_kills():
    spec = tree("one_for_one", process("a", shutdown_s=60.0, quit_before_s=5.0))
    simulation = Simulation(spec, ignores_term={"a"})
    simulation.log.clear()
    simulation.send(Shutdown())
    simulation.pass_time(54.9)
    assert simulation.log == terms("a")
    simulation.pass_time(0.2)
    assert simulation.log == [*terms("a"), "SIGQUIT a"]


def test_sup_stop_brutal_kill():
    simulation = Simulation(tree("one_for_one", process("a", shutdown_s=0.0)))
    simulation.log.clear()
    simulation.send(Shutdown())

    assert simulation.log == ["SIGKILL a"]


def test_sup_stop_race_with_a_child_that_dies_meanwhile():
    simulation = Simulation(tree(), ignores_term={"c"})
    simulation.send(Shutdown())
    simulation.die("a")

    assert simulation.log == []
    simulation.die("c")
    assert simulation.log == terms("b")
    assert simulation.exit_code == 0


def test_sup_stop_manual_shutdown_while_a_child_starts():
    simulation = Simulation(tree(), never_ready={"b"})
    simulation.log.clear()
    simulation.send(Shutdown())

    assert simulation.log == terms("b", "a")
    assert simulation.exit_code == 0


def test_a_second_stop_hurries_and_a_third_one_kills():
    simulation = Simulation(tree(), ignores_term=set(ABC))
    simulation.log.clear()
    simulation.send(Shutdown())
    simulation.send(Shutdown())
    assert simulation.log == terms("c", "a", "b")
    simulation.send(Shutdown())
    assert simulation.log[3:] == ["SIGKILL a", "SIGKILL b", "SIGKILL c"]
    assert simulation.exit_code == 0


# -- {permanent,transient,temporary}_{normal,abnormal}


@pytest.mark.parametrize("kind", [EndKind.NORMAL, EndKind.ABNORMAL])
@pytest.mark.parametrize("restart", list(Restart))
def test_restart_type(restart, kind):
    simulation = Simulation(tree("one_for_one", process("a", restart), process("b")))
    simulation.die("a", kind)

    again = restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and kind is EndKind.ABNORMAL)
    assert simulation.log == (starts("a") if again else [])
    assert simulation.node("a").verdict is (None if again else Verdict.DONE)


@pytest.mark.parametrize(
    ("strategy", "restarted"), [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")]
)
def test_strategy(strategy, restarted):
    simulation = Simulation(tree(strategy))
    simulation.die("b")

    assert simulation.log == [
        *terms(*(name for name in "cba" if name in restarted and name != "b")),
        *starts(*restarted),
    ]


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_temporary_bystander_is_stopped_and_not_restarted(strategy):
    simulation = Simulation(tree(strategy, process("a"), process("b", "temporary"), process("c")))
    simulation.die("a")

    assert simulation.log == [*terms("c", "b"), *starts("a", "c")]
    assert simulation.node("b").verdict is Verdict.DONE


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_temporary_child_that_ends_takes_nobody_along(strategy):
    simulation = Simulation(tree(strategy, process("a", "temporary"), process("b")))
    simulation.die("a")

    assert simulation.log == []


# -- intensity


@pytest.mark.parametrize("strategy", list(Strategy))
def test_escalation_after_more_ends_than_the_intensity(strategy):
    simulation = Simulation(tree(strategy, intensity=2))
    for _ in range(2):
        simulation.die("a")
        assert simulation.exit_code is None
    simulation.die("a")

    assert simulation.log == terms("c", "b")
    assert simulation.exit_code == 1


def test_multiple_restarts_of_different_children_are_counted_together():
    simulation = Simulation(tree(intensity=2))
    for name in "abc":
        simulation.die(name)

    assert simulation.exit_code == 1


def test_without_an_intensity_three_ends_of_each_process_below_it_are_allowed():
    inner = SupervisorSpec("in", (process("c"), process("d")))
    simulation = Simulation(SupervisorSpec(children=(process("a"), process("b"), inner)))
    for _ in range(6):
        simulation.die("a")
        simulation.die("b")
    assert not simulation.notices
    simulation.die("a")

    assert simulation.exit_code == 1
    assert simulation.notices[-1] == ": too many ends: 13 within 60 s; allowed: 12"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_an_intensity_one_child_that_always_fails_is_restarted_with_pauses_for_ever(count):
    children = tuple(ProcessSpec(name) for name in ABC[:count])
    simulation = Simulation(SupervisorSpec(children=children), failing={"a": 60})
    simulation.pass_time(3600.0)

    assert simulation.node("a").phase is Phase.READY
    assert simulation.exit_code is None


def test_the_intensity_follows_children_that_are_added_and_removed():
    simulation = Simulation(SupervisorSpec(children=tuple(process(name) for name in ABC)))
    simulation.send(Add("", process("d")))
    for _ in range(12):
        simulation.die("a")
    assert simulation.exit_code is None
    simulation.send(Remove("d"))
    simulation.die("a")

    assert simulation.notices[-1].endswith("allowed: 9")


def test_ends_longer_ago_than_the_period_are_not_counted():
    simulation = Simulation(tree(intensity=1, period_s=5.0))
    for _ in range(5):
        simulation.die("a")
        simulation.pass_time(5.1)

    assert simulation.exit_code is None


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_other_child_fails_restart(strategy):
    simulation = Simulation(tree(strategy), failing={})
    simulation.failing["b"] = 1
    simulation.die("a")

    # b fails to start: the strategy is applied again, now from b.
    first = [*terms("c", "b"), *starts("a", "b")]
    again = [*terms("a"), *starts("a", "b", "c")] if strategy == "one_for_all" else starts("b", "c")
    assert simulation.log == [*first, *again]


def test_a_sibling_that_dies_while_it_waits_to_be_stopped_is_not_counted():
    simulation = Simulation(tree("rest_for_one", intensity=1), ignores_term={"c"})
    simulation.die("a")
    simulation.die("b")
    assert simulation.log == []
    simulation.die("c")

    assert simulation.log == starts("a", "b", "c")
    assert simulation.exit_code is None


def test_hanging_restart_loop_ends_at_the_intensity():
    simulation = Simulation(tree(intensity=5))
    simulation.failing["a"] = 10**6
    simulation.die("a")

    assert simulation.log == [*starts("a", "a", "a", "a", "a"), *terms("c", "b")]
    assert simulation.exit_code == 1


def test_a_start_that_hangs_is_killed_and_counted():
    spec = tree("one_for_one", process("a", ready_s=10.0), intensity=1)
    simulation = Simulation(spec, never_ready={"a"}, ignores_term={"a"})
    simulation.pass_time(60.0)

    assert simulation.log == ["start a", "SIGTERM a", "SIGKILL a"] * 2
    assert simulation.notices[0] == "a: not ready within 10 s"
    assert simulation.exit_code == 1


def test_pauses_between_restarts_grow_and_begin_anew_after_a_stable_time():
    spec = tree("one_for_one", ProcessSpec("a", stable_s=60.0), intensity=99, period_s=1.0)
    simulation = Simulation(spec)
    pauses = []
    for _ in range(10):
        simulation.die("a")
        pauses.append(simulation.node("a").not_before - simulation.now)
        simulation.pass_time(40.0)
    simulation.pass_time(60.0)
    simulation.die("a")

    assert pauses[0] == 0
    assert all(
        base * 0.8 <= pause <= base * 1.2 for pause, base in zip(pauses[1:8], [0.5, 1, 2, 4, 8, 16, 30], strict=True)
    )
    assert simulation.node("a").not_before == simulation.now
