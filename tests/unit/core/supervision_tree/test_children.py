"""OTP's supervisor suite by meaning, of nested supervisors, significant children, and children that come and go."""

from __future__ import annotations

import pytest

from orchestrator.core.supervision_tree.rule import not_ready
from orchestrator.core.supervision_tree.spec import (
    AutoShutdown,
    ProcessSpec,
    Restart,
    SupervisorSpec,
)
from orchestrator.core.supervision_tree.state import (
    Add,
    EndKind,
    Phase,
    Remove,
    RestartChild,
    Shutdown,
    Start,
    Stop,
    Verdict,
)
from tests.support.tree_simulation import ABC, Simulation, process, starts, terms, tree

# -- nested supervisors


def nested(intensity: int = 1, **options) -> SupervisorSpec:
    inner = SupervisorSpec("in", (process("x"), process("y")), intensity=intensity, **options)
    return SupervisorSpec(children=(process("a"), inner, process("b")), intensity=1)


def test_tree_starts_left_to_right_and_stops_in_reverse():
    simulation = Simulation(nested())
    assert simulation.log == starts("a", "in/x", "in/y", "b")
    simulation.log.clear()
    simulation.send(Shutdown())

    assert simulation.log == terms("b", "in/y", "in/x", "a")


def test_a_supervisor_that_gives_up_is_restarted_by_its_parent():
    simulation = Simulation(nested())
    simulation.die("in/x")
    simulation.die("in/x")

    assert simulation.log == [*terms("in/y"), *starts("in/x", "in/y")]
    simulation.die("in/x")
    simulation.die("in/x")
    assert simulation.log == terms("in/y", "b", "a")
    assert simulation.exit_code == 1


def test_a_transient_supervisor_that_gives_up_is_not_restarted():
    simulation = Simulation(nested(restart=Restart.TRANSIENT))
    simulation.die("in/x")
    simulation.die("in/x")

    assert simulation.log == terms("in/y")
    assert simulation.node("in").verdict is Verdict.GAVE_UP
    assert simulation.live.keys() == {"a", "b"}


def test_give_up_while_the_parent_stops_leaves_nothing():
    simulation = Simulation(nested(), ignores_term={"in/y"})
    simulation.die("in/x")
    simulation.die("in/x")
    simulation.send(Shutdown())
    simulation.pass_time(31.0)

    assert simulation.exit_code == 0


# -- deaths while the tree starts


def test_a_child_that_was_ready_and_died_does_not_delay_the_siblings_after_it():
    simulation = Simulation(tree(), obedient=False)
    simulation.answer(0)
    assert simulation.log == starts("a", "b")
    simulation.die("a")
    assert simulation.log == starts("a")
    # b is ready, then c; a, which runs again, says nothing.
    simulation.answer(0)
    assert simulation.log == starts("a", "c")
    simulation.answer(1)

    assert simulation.ready
    assert not_ready(simulation.state) == ["a"]


def test_a_child_that_was_never_ready_delays_the_siblings_after_it():
    simulation = Simulation(tree(intensity=9), obedient=False)
    for _ in range(3):
        simulation.waiting.clear()
        simulation.die("a")

    assert simulation.live.keys() == {"a"}


def test_a_supervisor_that_starts_again_waits_for_each_child_again():
    inner = tree("one_for_one", intensity=0, id="in")
    simulation = Simulation(tree("one_for_one", inner, intensity=9))
    simulation.never_ready.add("in/a")
    simulation.die("in/a")

    assert simulation.log == [*terms("in/c", "in/b"), *starts("in/a")]


# -- significant_*, auto_shutdown


@pytest.mark.parametrize(
    ("auto", "ended", "exit_code"),
    [
        ("never", "ab", None),
        ("any_significant", "a", 0),
        ("all_significant", "a", None),
        ("all_significant", "ab", 0),
        ("any_significant", "c", None),
    ],
)
def test_significant(auto, ended, exit_code):
    children = (
        process("a", "transient", significant=True),
        process("b", "temporary", significant=True),
        process("c", "transient"),
    )
    simulation = Simulation(tree("one_for_one", *children, auto_shutdown=AutoShutdown(auto)))
    for name in ended:
        simulation.die(name, EndKind.NORMAL)

    assert simulation.exit_code == exit_code
    assert bool(simulation.live) is (exit_code is None)


def test_significant_transient_that_ends_abnormally_is_restarted():
    spec = tree("one_for_one", process("a", "transient", significant=True), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT)
    simulation = Simulation(spec)
    simulation.die("a")

    assert simulation.log == starts("a")


def test_significant_temporary_bystander_shuts_nothing_down():
    children = (process("a"), process("b", "temporary", significant=True))
    simulation = Simulation(tree("one_for_all", *children, auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    simulation.die("a")

    assert simulation.exit_code is None
    assert simulation.log == [*terms("b"), *starts("a")]


def test_significant_supervisor_that_shuts_down_shuts_its_parent_down():
    inner = SupervisorSpec(
        "in",
        (process("x", "transient", significant=True),),
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
        restart=Restart.TRANSIENT,
        significant=True,
    )
    simulation = Simulation(SupervisorSpec(children=(inner,), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    simulation.die("in/x", EndKind.NORMAL)

    assert simulation.exit_code == 0


# -- start_child, terminate_child, restart_child, delete_child; simple_one_for_one_*


def test_terminate_and_restart_child():
    simulation = Simulation(tree("one_for_all"))
    simulation.log.clear()
    simulation.send(Stop("b"))
    assert simulation.log == terms("b")
    simulation.die("a")
    assert simulation.log == [*terms("c"), *starts("a", "c")]

    simulation.log.clear()
    simulation.send(Start("b"))
    assert simulation.log == starts("b")


def test_restart_of_a_child_by_an_operator_is_not_counted():
    simulation = Simulation(tree(intensity=0))
    simulation.log.clear()
    simulation.send(RestartChild("b"))

    assert simulation.log == [*terms("b"), *starts("b")]
    assert simulation.exit_code is None


def test_delete_child_stops_it():
    simulation = Simulation(tree())
    simulation.log.clear()
    simulation.send(Remove("b"))

    assert simulation.log == terms("b")
    assert "b" not in simulation.state.nodes
    assert simulation.node("").children == ("a", "c")


def test_a_child_that_is_wanted_again_while_it_is_removed_comes_back():
    simulation = Simulation(tree(), ignores_term={"b"})
    simulation.send(Remove("b"))
    simulation.send(Add("", process("b")))
    simulation.die("b", EndKind.NORMAL)

    assert simulation.log == starts("b")
    assert simulation.node("").children == ("a", "b", "c")


def test_a_child_that_is_wanted_again_while_all_stops_does_not():
    simulation = Simulation(tree(), ignores_term={"b"})
    simulation.send(Remove("b"))
    simulation.send(Shutdown())
    simulation.send(Add("", process("b")))
    simulation.die("b")

    assert simulation.exit_code == 0


def test_simple_one_for_one_children_come_and_go():
    simulation = Simulation(SupervisorSpec())
    for number in range(20):
        simulation.send(Add("", process(f"worker.{number}", "temporary")))
    assert len(simulation.live) == 20
    simulation.die("worker.3")

    assert len(simulation.live) == 19
    assert simulation.log == []
    simulation.send(Shutdown())
    assert simulation.log == terms(*(f"worker.{number}" for number in reversed(range(20)) if number != 3))


def test_restart_of_a_child_while_it_stops_starts_it_after_that():
    simulation = Simulation(tree(), ignores_term={"b"})
    simulation.send(Stop("b"))
    simulation.send(Start("b"))
    assert simulation.node("b").phase is Phase.STOPPING
    simulation.die("b")

    assert simulation.log == starts("b")


def test_count_restarting_children():
    spec = tree("one_for_one", *(ProcessSpec(name) for name in ABC), intensity=9)
    simulation = Simulation(spec)
    for _ in range(2):
        for name in "ab":
            simulation.die(name)

    waiting = [path for path, node in simulation.state.nodes.items() if path and not node.is_alive]
    assert waiting == ["a", "b"]


def test_scale_start_stop_many_children():
    simulation = Simulation(tree("one_for_one", *(process(f"p{number}") for number in range(200))))
    assert len(simulation.live) == 200
    simulation.send(Shutdown())

    assert simulation.exit_code == 0
