"""A fork begins in the middle of another run, with its results."""

from __future__ import annotations

import pytest

from orchestrator import ITEM, InvalidPolicy, Retry, Workflow, WorkflowExists
from tests.apps.workflows_app import List, Square, Sum
from tests.support.workflow_cluster import WorkflowCluster


def _flow(cluster: WorkflowCluster) -> Workflow:
    flow = Workflow("squares")
    numbers = flow.step("list", List(count=4), to="counter")
    over = numbers.result["numbers"]
    squares = flow.map("square", Square, over=over, fields={"number": ITEM}, to="counter")
    total = flow.step(
        "sum", Sum, fields={"numbers": squares.result}, to="counter", after=flow.join("all", after=squares)
    )
    flow.step("note", cluster.task("note", "noted", total.result))
    flow.step("apart", cluster.task("note", "apart"))
    return flow


def _fails(cluster: WorkflowCluster) -> Workflow:
    flow = Workflow("fails")
    first = flow.step("first", cluster.task("note", "first"))
    flow.step("fails", cluster.task("fail"), after=first, retry=Retry(max_retries=0))
    return flow


def test_what_is_downstream_begins_again_with_the_kept_results(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_flow(cluster))
    cluster.forget()
    fork = run.fork(after="square")
    fork.wait(20)
    assert (fork.status().state, fork.result("sum"), fork.result("square")) == ("completed", 14, [0, 1, 4, 9])
    assert cluster.noted() == ["noted"]
    kept, again = run.status(), fork.status()
    assert (again.handled, again.name, again.total) == (kept.handled, "squares", kept.total)
    assert run.status() == kept
    assert fork.progress() == 1.0


def test_a_step_that_failed_begins_again(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_fails(cluster))
    cluster.forget()
    fork = run.fork(after="fails", workflow_id=f"again-{run.uid}")
    fork.wait(20)
    assert (fork.id, fork.status().state, fork.status().dead) == (f"again-{run.uid}", "failed", 1)
    assert cluster.noted() == ["fail"]
    with pytest.raises(InvalidPolicy, match="'nothing'"):
        run.fork(after="nothing")


@pytest.mark.parametrize("deadline_s", [None, 3600])
def test_the_same_fork_again_is_that_run_also_if_ended(cluster: WorkflowCluster, deadline_s: float | None) -> None:
    """As a start with the same id is."""
    run = cluster.ended(_fails(cluster))
    workflow_id = f"again-{run.uid}"
    fork = run.fork(after="first", workflow_id=workflow_id, deadline_s=deadline_s)
    assert fork.wait(20).state == "failed"
    assert run.fork(after="first", workflow_id=workflow_id, deadline_s=deadline_s).uid == fork.uid
    fork.delete()
    again = run.fork(after="first", workflow_id=workflow_id, deadline_s=deadline_s)
    assert again.uid != fork.uid
    assert again.wait(20).state == "failed"


@pytest.mark.parametrize("deadline_s", [None, 3600])
def test_another_fork_with_the_same_id_is_refused(cluster: WorkflowCluster, deadline_s: float | None) -> None:
    """Regression: a fork with another deadline was answered with the earlier run, and the deadline ignored."""
    run = cluster.ended(_fails(cluster))
    fork = run.fork(after="first", workflow_id=f"again-{run.uid}", deadline_s=deadline_s)
    fork.wait(20)
    for origin, after, other_s in [
        (run, "first", 7200),
        (run, "first", 60 if deadline_s is None else None),
        (run, "fails", deadline_s),
        (fork, "first", deadline_s),
    ]:
        with pytest.raises(WorkflowExists, match="not a fork of the same run"):
            origin.fork(after=after, workflow_id=fork.id, deadline_s=other_s)
    with pytest.raises(WorkflowExists, match="not a fork of the same run"):
        run.fork(after="first", workflow_id=run.id, deadline_s=deadline_s)


def test_a_fork_of_a_run_that_goes_on(cluster: WorkflowCluster) -> None:
    flow = Workflow("waits")
    first = flow.step("first", cluster.task("add", 1, 2))
    approval = flow.wait("approval", event="approved", after=first)
    flow.step("last", cluster.task("add", first.result, approval.result))
    run = cluster.orchestrator.workflows.start(flow)
    if cluster.has_worker:
        cluster.orchestrator.delivery(f"{run.uid}.0").wait(20)
    fork = run.fork(after="first")
    fork.post("approved", 10)
    fork.wait(20)
    assert fork.result("last") == 13
    run.post("approved", 20)
    run.wait(20)
    assert run.result("last") == 23


def test_nothing_of_a_fork_expires_before_its_end(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("eager mode keeps runs as long as the process")
    flow = Workflow("waits")
    first = flow.step("first", cluster.task("add", 1, 2))
    flow.wait("approval", event="approved", after=first)
    run = cluster.orchestrator.workflows.start(flow)
    cluster.orchestrator.delivery(f"{run.uid}.0").wait(20)
    fork = run.fork(after="first")
    keys = list(cluster.redis.scan_iter(f"*run:{fork.uid}*"))
    assert len(keys) >= 4
    assert {cluster.redis.pttl(key) for key in keys} == {-1}
    for one in (run, fork):
        one.cancel()
