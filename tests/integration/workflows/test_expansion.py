"""Steps that take the place of the one whose handler returns them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import ITEM, Cancelled, Dead, Handled, InvalidPolicy, Retry, Workflow
from orchestrator.workflows.records import StepState
from orchestrator.workflows.references import Reference
from tests.apps.workflows_app import Split, Square, Sum, Undo
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster


def _flow(how: str, numbers: list[int], **options: Any) -> Workflow:
    flow = Workflow("split", **options)
    flow.step("split", Split(numbers=numbers, how=how), to="counter", undo=Undo(what="split"))
    return flow


def _states(run: Any) -> dict[str, StepState]:
    return {step.name: step.state for step in run.steps()}


@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("pairs", [1, 4, 9]),
        ("graph", {"square-1": 1, "square-2": 4, "square-3": 9, "sum": 14}),
        ("nested", [1, [4, [9]]]),
        ("map", {"list": {"numbers": [0, 1, 2]}, "square": [0, 1, 4]}),
    ],
)
def test_what_depends_on_it_waits_for_all(cluster: WorkflowCluster, how: str, result: Any) -> None:
    flow = _flow(how, [1, 2, 3])
    flow.step("after", cluster.task("note_all", Reference("split")))
    run = cluster.ended(flow)
    assert run.status().state == "completed", run.explain()
    assert run.result("split") == run.result("after") == result
    assert run.outcome("split") == Handled(result)
    assert run.status().total == len(run.steps()) == run.status().handled - (3 if how == "map" else 0)


def test_parts_of_its_result_are_referred_to_and_mapped(cluster: WorkflowCluster) -> None:
    outer = Workflow("outer")
    first = outer.step("split", Split(numbers=[2, 3], how="graph"), to="counter")
    pairs = outer.step("pairs", Split(numbers=[1, 2]), to="counter")
    outer.step("sum", Sum, fields={"numbers": [first.result["sum"], pairs.result[1]]}, to="counter")
    outer.map("squares", Square, over=pairs.result, fields={"number": ITEM}, to="counter")
    run = cluster.ended(outer)
    assert (run.result("sum"), run.result("squares")) == (17, [1, 16])


def test_an_item_of_a_map_is_replaced(cluster: WorkflowCluster) -> None:
    flow = Workflow("items")
    numbers = flow.step("numbers", cluster.task("note_all", [[1, 2], [], [3]]))
    flow.map("split", Split, over=numbers.result, fields={"numbers": ITEM, "how": "pairs"}, to="counter")
    run = cluster.ended(flow)
    assert run.status().state == "completed"
    assert run.result("split") == [[1, 4], [], [9]]
    assert {"split[0]/Square-1", "split[2]/Square-1", "split[0]/*"} <= set(_states(run))


def test_its_failure_is_the_runs_unless_another_step_begins_on_it(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_flow("pairs", [1, 13]))
    assert run.status().state == "failed"
    assert _states(run)["split"] is StepState.EXPANDED
    assert any("waits for the 3 steps that took its place" in line or "never began" in line for line in run.explain())
    flow = _flow("pairs", [1, 13])
    flow.step("anyway", cluster.task("note", "anyway").set(immutable=True), after="split", when="any_failed")
    guarded = cluster.ended(flow)
    assert guarded.status().state == "completed"
    assert guarded.outcome("split") == Dead("steps failed", "steps that took its place were not handled", 0)
    assert guarded.result("anyway") == "anyway"


def test_its_compensation_follows_theirs(cluster: WorkflowCluster) -> None:
    flow = _flow("graph", [1, 2], on_failure="compensate")
    flow.step("fail", cluster.task("fail"), after="split", retry=Retry(max_retries=0))
    run = cluster.ended(flow)
    assert run.status().state == "compensated"
    undone = [note for note in cluster.noted() if note.startswith("undo")]
    assert sorted(undone[:2]) == ["undo 1", "undo 2"]
    assert undone[2:] == ["undo split"]


@pytest.mark.parametrize(
    ("how", "problems"),
    [
        ("bad", ["step 'a'", "unknown agent 'nobody'", "step 'b'", "field nummer"]),
        ("wrong", ["1 is no step; allowed: a signature, a task, or a pair", "2 is no step"]),
        ("many", ["allowed: 100000"]),
        ("large", ["allowed: 16777216"]),
    ],
)
def test_what_cannot_be_steps_makes_it_dead(cluster: WorkflowCluster, how: str, problems: list[str]) -> None:
    if how == "large" and not cluster.has_worker:
        pytest.skip("messages have no size in eager mode")
    run = cluster.ended(_flow(how, [1, 2]))
    outcome = run.outcome("split")
    assert isinstance(outcome, Dead)
    assert all(problem in outcome.error for problem in problems), outcome.error
    assert (outcome.attempts, outcome.reason) == (1, "validation")
    assert cluster.noted() == ["split 2"]
    assert len(run.steps()) == 1


def test_outside_of_a_workflow_it_is_no_result(cluster: WorkflowCluster) -> None:
    delivery = cluster.orchestrator.send("counter", Split(numbers=[1]))
    outcome = delivery.wait(timeout_s=20)
    assert isinstance(outcome, Dead)
    assert "only a step of a workflow can be replaced" in outcome.error


def test_events_are_waited_for_within(cluster: WorkflowCluster) -> None:
    run = cluster.orchestrator.workflows.start(_flow("waits", [3]))
    run.post("go", 1)
    run.wait(20)
    assert run.result("split") == {"event": 1, "square": 9}


def test_a_cancel_ends_it(cluster: WorkflowCluster) -> None:
    run = cluster.orchestrator.workflows.start(_flow("waits", [3]))
    eventually(lambda: _states(run)["split"] is StepState.EXPANDED)
    run.cancel()
    run.wait(20)
    assert run.outcome("split") == Cancelled("its run was cancelled")
    assert _states(run)["split/square"] is StepState.WAITING


def test_a_fork_keeps_what_took_the_place_of_a_kept_step(cluster: WorkflowCluster) -> None:
    flow = _flow("nested", [1, 2])
    flow.step("after", cluster.task("note_all", Reference("split")))
    run = cluster.ended(flow)
    fork = run.fork(after="split")
    fork.wait(20)
    assert fork.result("after") == [1, [4]]
    assert fork.status().total == run.status().total
    assert cluster.noted().count("split 2") == 1
    again = run.fork(after="after")
    again.wait(20)
    assert again.status().state == "completed"
    with pytest.raises(InvalidPolicy, match="not one that has taken the place"):
        run.fork(after="split/Square-1")
