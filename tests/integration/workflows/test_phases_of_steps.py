"""A worker is killed at each place where it deals with a step: the run ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Exponential, Retry, Workflow
from orchestrator.workflows.run import Run
from tests.apps.phases_app import Begin, Control, Do, Undo
from tests.support.eventually import eventually
from tests.support.kill_switch import Place, after, before
from tests.support.phases_cluster import PhasesCluster, phases_cluster, slow

SETTLE = "settle_with_outcome"


@pytest.fixture(scope="module")
def of_module() -> Iterator[PhasesCluster]:
    with phases_cluster("stepper,starter,celery") as cluster:
        yield cluster


@pytest.fixture
def cluster(of_module: PhasesCluster) -> PhasesCluster:
    of_module.get_ready()
    return of_module


def chain(middle: Do, **options: Any) -> Workflow:
    """Three steps, the second one of which has these options."""
    flow = Workflow("chain", on_failure="compensate")
    first = flow.step("first", Do(what="first"), to="stepper", undo=Undo(what="1"))
    second = flow.step("middle", middle, to="stepper", after=first, undo=Undo(what="2"), **options)
    flow.step("last", Do(what="last"), to="stepper", after=second)
    return flow


def start(cluster: PhasesCluster, flow: Workflow, **options: Any) -> Run:
    return cluster.orchestrator.workflows.start(flow, **options)


@pytest.mark.parametrize(
    ("place", "begun"),
    [
        slow(Place("claimed", ("middle",)), 1),
        slow(Place("before handler", ("middle",)), 1),
        slow(Place("in handler", ("middle",)), 2),
        slow(Place("after handler", ("middle",)), 2),
        (before(SETTLE, "middle"), 2),
        slow(after(SETTLE, "middle"), 1),
    ],
)
def test_a_step_is_done_once_wherever_its_worker_is_killed(cluster: PhasesCluster, place: Place, begun: int) -> None:
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, chain(Do(what="middle"))))
        assert run.wait(20).state == "completed"
    assert cluster.begun() == {"first": 1, "middle": begun, "last": 1}
    assert counted == {"accepted": 3, "handled": 3}


@pytest.mark.parametrize(("place", "begun"), [slow(before("retry", "middle"), 3), slow(after("retry", "middle"), 2)])
def test_a_step_is_retried_wherever_its_worker_is_killed(cluster: PhasesCluster, place: Place, begun: int) -> None:
    retry = Retry(max_retries=2, backoff=Exponential(initial_s=0.05))
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, chain(Do(what="middle", fails=1), retry=retry)))
        assert run.wait(20).state == "completed"
    assert cluster.begun() == {"first": 1, "middle": begun, "last": 1}
    assert counted == {"accepted": 3, "handled": 3}


@pytest.mark.parametrize(
    ("place", "begun"), [slow(before("dead_letter", "it fails"), 2), slow(after("dead_letter", "it fails"), 1)]
)
def test_a_step_fails_once_wherever_its_worker_is_killed(cluster: PhasesCluster, place: Place, begun: int) -> None:
    letters = cluster.orchestrator.dead_letters.count()
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, chain(Do(what="middle", fails=9))))
        assert run.wait(20).state == "compensated"
    assert cluster.begun() == {"first": 1, "middle": begun, "undo 1": 1}
    assert counted == {"accepted": 3, "handled": 2, "dead": 1}
    assert cluster.orchestrator.dead_letters.count() == letters + 1


@pytest.mark.parametrize(
    ("place", "begun"),
    [
        slow(Place("claimed", (".u1",)), 1),
        slow(Place("before handler", (".u1",)), 1),
        slow(Place("in handler", ("undo 2",)), 2),
        slow(Place("after handler", (".u1",)), 2),
        slow(before(SETTLE, ".u1"), 2),
        slow(after(SETTLE, ".u1"), 1),
    ],
)
def test_a_compensation_is_done_once_wherever_its_worker_is_killed(
    cluster: PhasesCluster, place: Place, begun: int
) -> None:
    flow = chain(Do(what="middle"))
    flow.step("fails", Do(what="fails", fails=9), to="stepper", after="last")
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, flow))
        assert run.wait(20).state == "compensated"
    order = [note["what"] for note in cluster.notes("test:begun")]
    assert order == ["first", "middle", "last", "fails", *["undo 2"] * begun, "undo 1"]
    assert counted == {"accepted": 6, "handled": 5, "dead": 1}


@pytest.mark.parametrize(
    "place", [after(SETTLE, "first"), slow(before("workflows/advance_run")), slow(after("workflows/advance_run"))]
)
def test_steps_that_one_script_did_not_send_are_sent_after_its_death(cluster: PhasesCluster, place: Place) -> None:
    flow = Workflow("fan")
    first = flow.step("first", Do(what="first"), to="stepper")
    parts = [flow.step(f"part-{number}", Do(what=f"part {number}"), to="stepper", after=first) for number in range(130)]
    flow.step("last", Do(what="last"), to="stepper", after=parts)
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, flow))
        assert run.wait(30).state == "completed"
    begun = cluster.begun()
    assert set(begun) == {"first", "last", *(f"part {number}" for number in range(130))}
    assert sum(begun.values()) <= 132 + 1, "the dead worker may have run one of them"
    assert counted == {"accepted": 132, "handled": 132}


def timed(**wait: Any) -> Workflow:
    flow = Workflow("timed", on_failure="compensate")
    first = flow.step("first", Do(what="first"), to="stepper", undo=Undo(what="1"))
    wait_s = flow.wait("pause", after=first, **wait)
    flow.step("last", Do(what="last"), to="stepper", after=wait_s)
    return flow


TIMER = ("workflows/control_run", "\r\ntime\r\n")


@pytest.mark.parametrize("place", [slow(before(*TIMER)), slow(after(*TIMER))])
def test_a_wait_ends_once_wherever_who_ends_it_is_killed(cluster: PhasesCluster, place: Place) -> None:
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, timed(seconds=0.2)))
        assert run.wait(20).state == "completed"
    assert cluster.begun() == {"first": 1, "last": 1}
    assert counted == {"accepted": 2, "handled": 2}


@pytest.mark.parametrize("place", [slow(before(*TIMER)), slow(after(*TIMER))])
@pytest.mark.parametrize(("wait", "deadline_s"), [(None, 0.5), (0.5, None)])
def test_a_run_ends_at_its_time_wherever_who_ends_it_is_killed(
    cluster: PhasesCluster, place: Place, wait: float | None, deadline_s: float | None
) -> None:
    flow = timed(event="never", timeout_s=wait)
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, flow, deadline_s=deadline_s))
        assert run.wait(20).state == "compensated"
    assert cluster.begun() == {"first": 1, "undo 1": 1}
    assert counted == {"accepted": 2, "handled": 2}


@pytest.mark.parametrize(
    ("place", "begun"),
    [
        slow(before("workflows/allot_steps"), 2),
        slow(after("workflows/allot_steps"), 2),
        slow(before("workflows/write_steps"), 2),
        (after("workflows/write_steps"), 2),
        slow(before(SETTLE, "expanded"), 2),
        slow(after(SETTLE, "expanded"), 1),
    ],
)
def test_steps_take_the_place_of_one_wherever_its_worker_is_killed(
    cluster: PhasesCluster, place: Place, begun: int
) -> None:
    with cluster.counted() as counted:
        run = cluster.kill_at(place, lambda: start(cluster, chain(Do(what="middle", adds=3))))
        assert run.wait(20).state == "completed"
    assert cluster.begun() == {"first": 1, "middle": begun, **{f"middle.{n}": 1 for n in range(3)}, "last": 1}
    assert counted == {"accepted": 6, "handled": 6}
    status = run.status()
    assert (status.total, status.open) == (7, 0), "with the join"


@pytest.mark.parametrize(
    ("place", "executed"),
    [
        slow(before("workflows/write_steps"), 5),
        slow(after("workflows/write_steps"), 5),
        slow(before(SETTLE, "suspended"), 5),
        slow(after(SETTLE, "suspended"), 4),
        slow(before(*TIMER), 4),
        slow(after(*TIMER), 4),
        slow(Place("in handler", ("at the end of the function",)), 5),
        slow(before(SETTLE, '"result":["call 1"'), 5),
        slow(after(SETTLE, '"result":["call 1"'), 4),
    ],
)
def test_a_function_makes_each_call_once_wherever_its_worker_is_killed(
    cluster: PhasesCluster, place: Place, executed: int
) -> None:
    function = cluster.orchestrator.runtime.functions["tests.apps.phases_app.calls"]
    run = cluster.kill_at(place, lambda: cluster.orchestrator.workflows.start(function))
    assert run.wait(20).state == "completed"
    assert run.result() == ["call 1", "call 2", "call 3"]
    assert cluster.begun() == {"call 1": 1, "call 2": 1, "call 3": 1}
    assert len(cluster.notes("test:executed")) == executed
    cluster.idle()


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        slow(3, before("workflows/start_run")),
        slow(3, after("workflows/start_run")),
        slow(210, before("workflows/start_run")),
        slow(210, after("workflows/start_run")),
    ],
)
def test_a_run_is_started_once_wherever_its_starter_is_killed(
    cluster: PhasesCluster, steps: int, place: Place, request: pytest.FixtureRequest
) -> None:
    orchestrator, workflow_id = cluster.orchestrator, request.node.name
    with cluster.counted() as counted:
        begin = Begin(workflow_id=workflow_id, steps=steps)
        delivery = cluster.kill_at(place, lambda: orchestrator.send("starter", begin))
        outcome = delivery.wait(20)
        run = orchestrator.workflows.get(workflow_id)
        assert run.wait(30).state == "completed"
    assert outcome.result == run.uid
    assert [one.id for one in orchestrator.workflows.list()].count(workflow_id) == 1
    assert set(cluster.begun().values()) == {1}
    assert counted == {"accepted": steps + 1, "handled": steps + 1}


CONTROL = "workflows/control_run"


@pytest.mark.parametrize("when", [before, after])
@pytest.mark.parametrize(
    ("action", "repeated", "state", "begun"),
    [
        slow("cancel", {"cancelled already", "too late"}, "compensated", {"first": 1, "undo 1": 1}),
        slow("post", {"done", "too late"}, "completed", {"first": 1, "last": 1}),
        slow("resume", {"not paused", "too late"}, "completed", {"first": 1, "last": 1}),
    ],
)
def test_a_run_is_controlled_once_wherever_its_controller_is_killed(
    cluster: PhasesCluster,
    when: Any,
    action: str,
    repeated: set[str],
    state: str,
    begun: Any,
    request: pytest.FixtureRequest,
) -> None:
    """An attempt that repeats what the dead one has done finds it done, or the run over."""
    run = start(cluster, timed(event="go"), workflow_id=request.node.name)
    eventually(lambda: run.status().handled == 1, 20, cluster.log)
    if action == "resume":
        run.pause()
        run.post("go")
    control = Control(workflow_id=run.id, action=action)
    delivery = cluster.kill_at(when(CONTROL, action), lambda: cluster.orchestrator.send("starter", control))
    outcome = delivery.wait(20)
    assert outcome.result in ({"done"} if when is before else repeated), outcome
    assert run.wait(20).state == state
    cluster.idle()
    assert cluster.begun() == begun
