"""Steps that are replayed after their run was deleted."""

from __future__ import annotations

from orchestrator import ITEM, Dead, Retry, Workflow
from orchestrator.workflows.references import Reference
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster


def test_a_step_that_needs_results_of_a_deleted_run_is_dead_again(cluster: WorkflowCluster) -> None:
    flow = Workflow("gone")
    # What is short comes with the message; a map's list does not.
    numbers = flow.step("numbers", cluster.task("note_all", [1, 2]))
    flow.map("add", cluster.task("add", ITEM), over=numbers.result)
    flow.step("fails", cluster.task("fail", Reference("add")), retry=Retry(max_retries=0))
    run = cluster.ended(flow)
    outcome = run.outcome("fails")
    assert isinstance(outcome, Dead)
    assert run.delete() == "done"
    delivery = cluster.orchestrator.dead_letters.replay(str(outcome.letter_id))
    dead = f"InvalidStepInput: run '{run.id}' is not kept any more, and with it the results that this step needs"
    # The first outcome is there until the second one is.
    eventually(lambda: getattr(cluster.orchestrator.delivery(delivery).wait(20), "error", "") == dead)
    assert cluster.noted() == ["body", "fail"]
