"""What handlers see of the run that they are a step of."""

from __future__ import annotations

from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.references import ITEM
from tests.apps.workflows_app import List, Look, Square
from tests.support.workflow_cluster import WorkflowCluster


def _flow(cluster: WorkflowCluster) -> Workflow:
    flow = Workflow("looks")
    numbers = flow.step("list", List(count=3), to="counter")
    squares = flow.map("square", Square, over=numbers.result["numbers"], fields={"number": ITEM}, to="counter")
    flow.step("look", Look(step="square"), to="counter", after=squares)
    flow.step("early", Look(step="look"), to="counter", after=numbers)
    flow.step("task", cluster.task("where", "list"), after=numbers)
    over = numbers.result["numbers"]
    flow.map("items", cluster.task("where", "list"), over=over, after=squares, limit=1)
    return flow


def test_a_handler_sees_its_step_and_the_results_of_others(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_flow(cluster), workflow_id="looks 1")
    assert run.result("look") == ["looks 1", "look", None, [0, 1, 4], "none"]
    numbers = {"numbers": [0, 1, 2]}
    assert run.result("task") == ["looks 1", "task", None, numbers]
    assert run.result("items") == [["looks 1", "items", item, numbers] for item in range(3)]
    # Runs of one definition are told apart.
    assert cluster.ended(_flow(cluster), workflow_id="looks 2").result("look")[0] == "looks 2"


def test_a_task_outside_of_a_workflow_is_no_step(cluster: WorkflowCluster) -> None:
    delivery = cluster.orchestrator.send(cluster.task("where", "list"))
    assert delivery.wait(20).result is None
