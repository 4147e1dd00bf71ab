"""Random trees and random deaths: the rule against a naive supervisor, and what must hold however slow all is."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.supervision_tree.rule import exit_code_if_idle
from orchestrator.core.supervision_tree.spec import (
    AutoShutdown,
    OnGiveUp,
    ProcessSpec,
    Restart,
    Strategy,
    SupervisorSpec,
    allowed_ends,
    parent_of,
)
from orchestrator.core.supervision_tree.state import (
    Add,
    EndKind,
    Event,
    Phase,
    Purpose,
    Remove,
    RestartChild,
    Roll,
    Shutdown,
    Start,
    Stop,
    Tick,
)
from tests.support.drawn_examples import times_factor
from tests.support.naive_supervisor import NaiveTree
from tests.support.tree_simulation import AT_ONCE, Simulation

MOST_STEPS = 25


def _processes(**options):
    return st.builds(ProcessSpec, st.just("?"), restart=st.sampled_from(Restart), significant=st.booleans(), **options)


def _supervisors(children, **options):
    return st.builds(
        SupervisorSpec,
        st.just("?"),
        st.lists(children, max_size=4).map(_named),
        strategy=st.sampled_from(Strategy),
        intensity=st.integers(0, 3),
        period_s=st.just(10.0),
        auto_shutdown=st.sampled_from(AutoShutdown),
        restart=st.sampled_from(Restart),
        significant=st.booleans(),
        **options,
    )


def _named(children):
    names = "abcd"
    return tuple(_with_id(child, names[k]) for k, child in enumerate(children))


def _with_id(child, name):
    fields = {field: getattr(child, field) for field in child.__dataclass_fields__}
    return type(child)(**{**fields, "id": name})


def trees(leaves, **options):
    inner = _supervisors(leaves, **options)
    middle = _supervisors(st.one_of(leaves, inner), **options)
    return _supervisors(st.one_of(leaves, middle), **options).map(lambda spec: _with_id(spec, ""))


obedient_trees = trees(_processes(backoff=st.just(AT_ONCE)))
slow_trees = trees(
    _processes(
        shutdown_s=st.sampled_from([0.0, 3.0, 12.0]), quit_before_s=st.sampled_from([0.0, 5.0]), ready_s=st.just(4.0)
    ),
    on_give_up=st.sampled_from(OnGiveUp),
    hold_s=st.sampled_from([None, 20.0]),
)
deaths = st.lists(st.tuples(st.integers(0, 99), st.booleans(), st.sampled_from([0.0, 3.0, 11.0])), max_size=MOST_STEPS)


@settings(max_examples=times_factor(300), deadline=None)
@given(obedient_trees, deaths)
def test_it_does_what_a_naive_supervisor_does(spec, deaths):
    ours, naive = Simulation(spec), NaiveTree(spec)
    assert ours.log == naive.log
    for number, normally, then_s in deaths:
        living = naive.living()
        assert sorted(ours.live) == sorted(living)
        if not living or naive.exit_code is not None:
            break
        path = living[number % len(living)]
        naive.log.clear()
        naive.die(path, normally)
        ours.die(path, EndKind.NORMAL if normally else EndKind.ABNORMAL)
        assert ours.log == naive.log
        assert ours.exit_code == naive.exit_code
        naive.now += then_s
        ours.pass_time(then_s)


moves = st.lists(
    st.tuples(
        st.sampled_from(
            ["answer", "answer", "answer", "die", "time", "stop", "start", "restart", "remove", "add", "roll", "quit"]
        ),
        st.integers(0, 999),
        st.sampled_from(EndKind),
    ),
    max_size=60,
)


@settings(max_examples=times_factor(200), deadline=None)
@given(slow_trees, moves)
def test_whatever_happens_in_whatever_order(spec, moves):
    # The simulation itself checks that no process is started twice, and that only living ones are ended.
    simulation = Simulation(spec, obedient=False)
    for what, number, kind in moves:
        if simulation.exit_code is not None:
            break
        _move(simulation, what, number, kind)
        _check(simulation)
    # A stop ends, and in the end there is nothing.
    simulation.obedient = True
    simulation.ignores_term = set()
    simulation.send(Shutdown())
    simulation.pass_time(1000.0)
    assert simulation.exit_code is not None
    assert not simulation.live


def _move(simulation: Simulation, what: str, number: int, kind: EndKind) -> None:
    paths = [path for path in simulation.state.nodes if path]
    path = paths[number % len(paths)] if paths else ""
    if what == "answer" and simulation.waiting:
        simulation.answer(number)
    elif what == "die" and simulation.live:
        simulation.die(list(simulation.live)[number % len(simulation.live)], kind)
    elif what == "time":
        simulation.pass_time(number / 100)
    elif what == "roll":
        simulation.send(Roll(tuple(simulation.live)))
    elif what == "quit" and number % 10 == 0:
        simulation.send(Shutdown())
    elif path and what == "add":
        simulation.send(Add(parent_of(path), simulation.node(path).spec))
    elif path and what in ("stop", "start", "restart", "remove"):
        events: dict[str, Callable[[str], Event]] = {
            "stop": Stop,
            "start": Start,
            "restart": RestartChild,
            "remove": Remove,
        }
        simulation.send(events[what](path))


def _check(simulation: Simulation) -> None:
    state, now = simulation.state, simulation.now
    for path, node in state.nodes.items():
        if isinstance(node.spec, ProcessSpec):
            assert node.is_alive == (path in simulation.live)
            # Every wait has an end, but for that for the kernel to kill.
            assert node.due is not None or node.phase in (Phase.READY, Phase.DOWN, Phase.KILLING)
            continue
        if node.phase in (Phase.STARTING, Phase.READY):
            assert len([at for at in node.restarts if now - at <= node.spec.period_s]) <= allowed_ends(node.spec)
        if node.phase in (Phase.DOWN, Phase.ON_HOLD):
            assert not [child for child in node.children if state.nodes[child].is_alive]
        if node.phase is Phase.STARTING and not node.clear:
            _check_order(simulation, path)
    assert (
        state.stopping or state.nodes[""].purpose is not Purpose.STOP or exit_code_if_idle(state, now) in (None, 0, 1)
    )


def _check_order(simulation: Simulation, path: str) -> None:
    """While a supervisor starts, a child whose turn has not come is not started."""
    nodes = simulation.state.nodes
    never_yet = False
    for child in nodes[path].children:
        node = nodes[child]
        runs_first_time = node.phase is Phase.STARTING and node.run == 1
        assert not (never_yet and runs_first_time and node.in_turn and node.spec.id != "a")
        never_yet = never_yet or (node.run == 0 and node.wanted and node.verdict is None and not node.removing)


def test_time_that_has_come_is_not_due_again():
    simulation = Simulation(SupervisorSpec(children=(ProcessSpec("a"),)), never_ready={"a"}, ignores_term={"a"})
    simulation.pass_time(30.0)
    before = list(simulation.log)
    simulation.send(Tick())

    assert simulation.log == before
