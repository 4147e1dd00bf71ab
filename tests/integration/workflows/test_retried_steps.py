"""A step that failed begins again, and its run goes on."""

from __future__ import annotations

import signal

import pytest

from orchestrator import ITEM, Dead, InvalidPolicy, Retry, StepGoesOn, Workflow
from orchestrator.workflows.records import ControlResult, StepState
from tests.apps.workflows_app import List, Square, Sum
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster

ONCE = Retry(max_retries=0)


def _states(run: object) -> dict[str, StepState]:
    return {step.name: step.state for step in run.steps()}  # type: ignore[attr-defined]


def _needs(cluster: WorkflowCluster, workflow: Workflow, key: str) -> None:
    needs = workflow.step("needs", cluster.task("needs", key), retry=ONCE)
    workflow.step("then", cluster.task("note", "then"), after=needs)
    workflow.step("other", cluster.task("note", "other"), after=workflow.wait("pause", seconds=0.01))


def test_a_failed_run_goes_on(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("eager mode has no keys to wait for")
    flow = Workflow("needs")
    _needs(cluster, flow, "test:retried")
    run = cluster.ended(flow)
    assert (run.status().state, _states(run)["then"]) == ("failed", StepState.WAITING)
    cluster.redis.set("test:retried", "1")
    assert run.retry("needs") is ControlResult.DONE
    assert run.wait(20).state == "completed"
    assert {"then", "other"} <= set(cluster.noted())
    assert (run.result("needs"), run.status().dead, run.status().handled) == ("test:retried", 0, 4)
    cluster.redis.delete("test:retried")


def test_a_step_that_fails_again_fails_its_run_again(cluster: WorkflowCluster) -> None:
    flow = Workflow("fails")
    first = flow.step("first", cluster.task("note", "first"))
    flow.step("fails", cluster.task("fail"), after=first, retry=ONCE)
    run = cluster.ended(flow)
    for _ in range(2):
        assert run.retry("fails") is ControlResult.DONE
        assert run.wait(20).state == "failed"
    assert cluster.noted() == ["first", "fail", "fail", "fail"]
    assert (run.status().dead, run.status().handled, run.status().open) == (1, 1, 0)


def test_of_a_letter_and_a_retry_only_one_is_out(cluster: WorkflowCluster) -> None:
    """Regression: the replay of an earlier attempt's letter ended the attempt of a retry."""
    if not cluster.has_worker:
        pytest.skip("eager mode has no keys to wait for")
    letters = cluster.orchestrator.dead_letters
    flow = Workflow("held")
    _needs(cluster, flow, "test:held")
    run = cluster.ended(flow)
    first = run.outcome("needs")
    assert isinstance(first, Dead)
    assert first.letter_id is not None
    cluster.worker.signal(signal.SIGSTOP)
    try:
        assert run.retry("needs") is ControlResult.DONE
        with pytest.raises(StepGoesOn, match="'celery'"):
            letters.replay(first.letter_id)
    finally:
        cluster.worker.signal(signal.SIGCONT)
    assert run.wait(20).state == "failed"
    second = run.outcome("needs")
    assert isinstance(second, Dead)
    assert second.letter_id not in (None, first.letter_id)
    cluster.worker.signal(signal.SIGSTOP)
    try:
        letters.replay(str(second.letter_id))
        assert run.retry("needs") is ControlResult.REPLAYED
        with pytest.raises(StepGoesOn):
            letters.replay(first.letter_id)
        cluster.redis.set("test:held", "1")
    finally:
        cluster.worker.signal(signal.SIGCONT)
    eventually(lambda: run.status().state == "completed", 20, cluster.log)
    assert (run.status().dead, cluster.noted().count("then")) == (0, 1)
    letters.get(first.letter_id)
    cluster.redis.delete("test:held")


def test_of_a_map_only_the_failed_items_begin_again(cluster: WorkflowCluster) -> None:
    flow = Workflow("unlucky")
    numbers = flow.step("list", List(count=15), to="counter")
    over = numbers.result["numbers"]
    squares = flow.map("square", Square, over=over, fields={"number": ITEM}, to="counter", limit=4)
    flow.step("sum", Sum, fields={"numbers": squares.result}, to="counter")
    run = cluster.ended(flow)
    assert run.status().state == "failed"
    handled = run.status().handled
    assert run.retry("square") is ControlResult.DONE
    assert run.wait(20).state == "failed"
    assert (run.status().handled, run.status().dead, run.steps()[1].items) == (handled, 2, (15, 15, 1))


def test_what_cannot_be_retried(cluster: WorkflowCluster) -> None:
    flow = Workflow("saga", on_failure="compensate")
    first = flow.step("first", cluster.task("add", 1), undo=cluster.task("note", "undo"))
    flow.step("fails", cluster.task("fail"), after=first, retry=ONCE)
    run = cluster.ended(flow)
    assert run.retry("fails") is ControlResult.RUN_COMPENSATED

    flow = Workflow("guarded")
    failed = flow.step("fails", cluster.task("fail"), retry=ONCE)
    flow.step("rescue", cluster.task("note", "rescue"), after=failed, when="any_failed")
    run = cluster.ended(flow)
    assert run.retry("fails") is ControlResult.RUN_COMPLETED
    assert run.retry("rescue") is ControlResult.NOT_FAILED
    with pytest.raises(InvalidPolicy, match="'nothing'"):
        run.retry("nothing")
