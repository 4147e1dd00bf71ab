"""What the supervision tree has beyond OTP: hold, rolling restarts, failures that no restart can heal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.core.supervision_tree.rule import exit_code_if_idle, not_ready
from orchestrator.core.supervision_tree.spec import OnGiveUp, Restart, Strategy, SupervisorSpec
from orchestrator.core.supervision_tree.state import EndKind, Phase, RestartChild, Roll, Shutdown, Start, Stop, Verdict
from tests.support.tree_simulation import Simulation, process


def held(intensity: int = 1, hold_s: float | None = None) -> SupervisorSpec:
    agents = SupervisorSpec(
        "agents", (process("x"), process("y")), intensity=intensity, on_give_up=OnGiveUp.HOLD, hold_s=hold_s
    )
    return SupervisorSpec(children=(process("a"), agents))


def on_hold(**options) -> Simulation:
    simulation = Simulation(held(**options))
    simulation.die("agents/x")
    simulation.die("agents/x")
    return simulation


def test_mail_is_held_once_no_child_is_left_and_nobody_is_told():
    simulation = on_hold()

    assert simulation.log == ["SIGTERM agents/y", "hold agents"]
    assert simulation.node("agents").phase is Phase.ON_HOLD
    assert not_ready(simulation.state) == ["agents"]
    assert simulation.live.keys() == {"a"}
    assert exit_code_if_idle(simulation.state, simulation.now) is None


def test_a_reset_starts_the_children_and_then_releases_the_mail():
    simulation = on_hold()
    simulation.log.clear()
    simulation.send(Start("agents"))

    assert simulation.log == ["start agents/x", "start agents/y", "release agents"]


def test_a_reset_that_does_not_help_holds_again_at_the_first_end():
    simulation = on_hold()
    simulation.failing["agents/y"] = 1
    simulation.log.clear()
    simulation.send(Start("agents"))

    assert simulation.log == ["start agents/x", "start agents/y", "SIGTERM agents/x", "hold agents"]


def test_a_trial_after_the_time_of_the_hold():
    simulation = on_hold(hold_s=300.0)
    simulation.log.clear()
    simulation.pass_time(299.0)
    assert simulation.log == []
    simulation.pass_time(1.0)

    assert simulation.log == ["start agents/x", "start agents/y", "release agents"]


@pytest.mark.parametrize("end", [Stop("agents"), Shutdown()])
def test_a_stop_ends_the_hold_without_a_release(end):
    simulation = on_hold(hold_s=1.0)
    simulation.log.clear()
    simulation.send(end)
    simulation.pass_time(10.0)

    assert "release agents" not in simulation.log
    assert "start agents/x" not in simulation.log


def test_the_mail_of_a_tree_on_hold_is_released_by_the_next_tree():
    assert Simulation(held()).log == ["start a", "start agents/x", "start agents/y", "release agents"]


@pytest.mark.parametrize("kind", [EndKind.CONFIG, EndKind.DAEMONISED])
def test_what_cannot_run_as_configured_is_not_restarted_and_not_counted(kind):
    simulation = Simulation(SupervisorSpec(children=(process("a"), process("b")), intensity=0))
    simulation.die("a", kind)

    assert simulation.log == []
    assert simulation.node("a").verdict in (Verdict.CONFIG, Verdict.DAEMONISED)
    assert not_ready(simulation.state) == ["a"]
    assert simulation.live.keys() == {"b"}


def test_those_that_depend_on_it_wait_until_an_operator_starts_it():
    children = tuple(process(name) for name in "abc")
    simulation = Simulation(SupervisorSpec(children=children, strategy=Strategy.REST_FOR_ONE))
    simulation.die("b", EndKind.CONFIG)
    assert simulation.log == ["SIGTERM c"]

    simulation.log.clear()
    simulation.send(Start("b"))
    assert simulation.log == ["start b", "start c"]


@pytest.mark.parametrize(("kind", "code"), [(EndKind.NORMAL, 0), (EndKind.CONFIG, 1)])
def test_a_tree_in_which_nothing_will_run_any_more_has_an_exit_code(kind, code):
    spec = SupervisorSpec(children=(process("a", "transient"), process("b", "temporary")))
    simulation = Simulation(spec)
    simulation.die("a", kind)
    assert exit_code_if_idle(simulation.state, simulation.now) is None
    simulation.die("b", EndKind.NORMAL)

    assert exit_code_if_idle(simulation.state, simulation.now) == code


def test_a_tree_whose_children_were_stopped_by_hand_stays():
    simulation = Simulation(SupervisorSpec(children=(process("a"),)))
    simulation.send(Stop("a"))

    assert exit_code_if_idle(simulation.state, simulation.now) is None


def test_copies_start_together_and_the_next_child_when_all_of_them_are_ready():
    copies = tuple(process(name, group="x") for name in ("x.1", "x.2", "x.3"))
    simulation = Simulation(
        SupervisorSpec(children=(process("a"), *copies, process("b"))), never_ready={"x.1"}, ignores_term=set()
    )
    assert simulation.log == ["start a", "start x.1", "start x.2", "start x.3"]

    simulation.never_ready.clear()
    simulation.send(RestartChild("x.1"))
    assert simulation.log[4:] == ["SIGTERM x.1", "start x.1", "start b"]


def test_a_rolling_restart_takes_one_at_a_time():
    simulation = Simulation(SupervisorSpec(children=tuple(process(name) for name in "abc")))
    simulation.log.clear()
    simulation.never_ready.add("b")
    simulation.send(Roll(("a", "b", "c")))
    assert simulation.log == ["SIGTERM a", "start a", "SIGTERM b", "start b"]

    simulation.never_ready.clear()
    simulation.pass_time(31.0)
    assert simulation.log[4:] == ["SIGTERM b", "start b", "SIGTERM c", "start c"]
    assert simulation.state.rolling == ()


def test_a_rolling_restart_stops_at_a_process_that_does_not_come_back():
    simulation = Simulation(SupervisorSpec(children=(process("a"), process("b"))))
    simulation.failing, simulation.failure = {"a": 1}, EndKind.CONFIG
    simulation.log.clear()
    simulation.send(Roll(("a", "b")))

    assert simulation.log == ["SIGTERM a", "start a"]
    assert simulation.state.rolling == ()
    assert "b" in simulation.live


def rolled(simulation: Simulation, *paths: str) -> list[str]:
    """What a rolling restart does."""
    simulation.log.clear()
    simulation.send(Roll(paths))
    assert simulation.state.rolling == ()
    return simulation.log


def test_a_rolling_restart_ends_at_a_process_whose_supervisor_is_on_hold():
    """Regression: it waited for that process without end, and went on when the hold was over, days later."""
    assert rolled(on_hold(), "a", "agents/x", "agents/y") == ["SIGTERM a", "start a"]
    assert rolled(on_hold(), "agents/x", "a") == []


def test_a_rolling_restart_ends_where_it_brings_a_supervisor_on_hold():
    simulation = Simulation(held())
    simulation.failing["agents/x"] = 9

    assert rolled(simulation, "agents/x", "agents/y", "a") == [
        *("SIGTERM agents/x", "start agents/x", "start agents/x", "SIGTERM agents/y", "hold agents")
    ]


def test_a_rolling_restart_ends_at_a_process_whose_supervisor_has_given_up():
    agents = SupervisorSpec("agents", (process("x"),), intensity=0, restart=Restart.TEMPORARY)
    simulation = Simulation(SupervisorSpec(children=(agents, process("b"))))
    simulation.die("agents/x")
    assert simulation.node("agents").verdict is Verdict.GAVE_UP

    assert rolled(simulation, "agents/x", "b") == []


def test_a_rolling_restart_passes_over_a_process_whose_supervisor_was_stopped():
    """Regression: as above."""
    inner = SupervisorSpec("inner", (process("x"),))
    simulation = Simulation(SupervisorSpec(children=(SupervisorSpec("outer", (inner,)), process("b"))))
    simulation.send(Stop("outer"))

    assert rolled(simulation, "outer/inner/x", "b") == ["SIGTERM b", "start b"]


def test_the_rule_needs_the_standard_library_alone():
    program = (
        "import sys; import orchestrator.core.supervision_tree.rule; "
        "print([name for name in ('celery', 'kombu', 'redis', 'pydantic', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
