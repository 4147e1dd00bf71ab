"""Workflow functions: in eager mode and by workers of two pools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from orchestrator import Cancelled, Dead, Handled, Orchestrator, Retry, Workflow, WorkflowExists
from orchestrator.workflows.records import ControlResult, StepState
from orchestrator.workflows.references import Reference
from orchestrator.workflows.run import Run
from tests.apps import workflow_functions
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster


def _states(run: Run) -> dict[str, StepState]:
    return {step.name: step.state for step in run.steps()}


def _start(cluster: WorkflowCluster, name: str, *args: Any, **options: Any) -> Run:
    return cluster.orchestrator.workflows.start(cluster.function(name), *args, **options)


def test_calls_return_what_is_recorded(cluster: WorkflowCluster) -> None:
    run = cluster.executed("squares", 3)
    assert run.status().state == "completed", run.outcome("squares")
    result = run.result()
    assert result == run.result("squares")
    assert (result["total"], result["recorded"], result["at"]) == (9 + 0 + 1 + 4, ["a", 1], "squares")
    assert list(_states(run)) == [
        "squares", "squares/call-1", "squares/call-3", "squares/call-4", "squares/call-5", "squares/sleep-6",
        "squares/call-8",
    ]  # fmt: skip
    # Executed anew after each of its four suspensions; the side effect is recorded with the next call.
    assert cluster.noted().count("squares") == 5
    assert cluster.noted().count("side effect") == 1
    assert run.result("squares/call-8") == 14
    assert run.status().total == 7


def test_a_start_is_repeated_without_effect(cluster: WorkflowCluster) -> None:
    run = cluster.executed("squares", 2, workflow_id="two")
    again = _start(cluster, "squares", 2, workflow_id="two")
    assert again.uid == run.uid
    with pytest.raises(WorkflowExists):
        _start(cluster, "squares", 3, workflow_id="two")


def test_failures_are_caught(cluster: WorkflowCluster) -> None:
    run = cluster.executed("caught")
    assert run.status().state == "completed", run.outcome("caught")
    assert run.result() == [4, ["caught/call-2", "retries exhausted"], 9]


def test_an_event_that_does_not_come_in_time_is_a_failure(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("no timeout passes in eager mode")
    assert cluster.executed("impatient").result() == "timeout"


def test_a_failure_that_is_not_caught_is_the_runs(cluster: WorkflowCluster) -> None:
    run = cluster.executed("saga")
    assert run.status().state == "compensated"
    outcome = run.outcome("saga")
    assert isinstance(outcome, Dead)
    assert outcome.error.startswith("StepFailed: saga/call-3 was not handled: retries exhausted: ")
    assert outcome.attempts == 1
    assert cluster.noted()[-2:] == ["undo second", "undo first"]


def test_it_is_a_step_of_other_workflows(cluster: WorkflowCluster) -> None:
    flow = Workflow("around")
    numbers = flow.step("numbers", cluster.task("note_all", [1, 2]))
    inner = flow.step("inner", cluster.function("squares").s(2), after=numbers)
    from orchestrator import ITEM

    flow.map("each", cluster.function("chain").s(ITEM), over=numbers.result)
    flow.step("after", cluster.task("note_all", inner.result["total"]))
    run = cluster.ended(flow)
    assert run.status().state == "completed", run.explain()
    assert (run.result("after"), run.result("each")) == (5, [1, 2])
    assert {"inner/call-1", "each[1]/call-2"} <= set(_states(run))


def test_a_function_calls_another(cluster: WorkflowCluster) -> None:
    if cluster.has_worker:
        cluster.redis.set("test:there", "1")
    run = cluster.executed("outer", "test:there")
    assert run.result() == ["outer", ["test:there"]]
    assert "outer/call-1/call-1" in _states(run)
    assert run.graph()["edges"] == [{"from": "0", "to": "1"}, {"from": "1", "to": "2"}]


def test_it_waits_for_an_event_without_a_message(cluster: WorkflowCluster) -> None:
    run = _start(cluster, "approval", "it")
    eventually(lambda: run.explain()[1:] == [
        "approval: waits for approval/event-2, which it has called", "approval/event-2: waits for the event approved",
    ])  # fmt: skip
    if cluster.has_worker:
        assert all(row.pending == 0 for row in cluster.idle())
    run.pause()
    run.post("approved", {"by": "anna"})
    assert _states(run)["approval"] is StepState.READY
    run.resume()
    run.wait(20)
    assert run.result() == ["before it", {"by": "anna"}, "after it"]
    assert cluster.noted() == ["before it", "after it"]


def test_a_cancel_ends_it_while_it_waits(cluster: WorkflowCluster) -> None:
    run = _start(cluster, "approval", "it")
    eventually(lambda: _states(run).get("approval/event-2") is StepState.SUSPENDED)
    assert run.cancel() is ControlResult.DONE
    run.wait(20)
    assert run.outcome("approval") == run.outcome("approval/event-2") == Cancelled("its run was cancelled")


def test_a_deadline_ends_it_while_it_waits(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("no deadline passes in eager mode")
    run = cluster.executed("approval", "it", deadline_s=0.5)
    assert (run.status().state, run.status().because) == ("cancelled", "deadline passed")


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("returns", "SuspensionCaught: tests.apps.workflow_functions.swallows has caught the suspension of its call 1"),
        ("error", "ValueError: in the handler of an error"),
        ("outside", "InvalidExpansion: invalid expansion: step 'call-1': unknown agent 'nobody'"),
        ("canvas", "cannot be called; allowed: an agent and a message, a signature or a task"),
    ],
)
def test_what_cannot_be_ends_it_at_once(cluster: WorkflowCluster, how: str, error: str) -> None:
    run = cluster.executed("swallows", how)
    outcome = run.outcome("swallows")
    assert isinstance(outcome, Dead)
    assert error in outcome.error
    assert (outcome.attempts, len(run.steps())) == (1, 1)


def test_a_call_while_it_is_suspended_changes_nothing(cluster: WorkflowCluster) -> None:
    """As in `finally`: the first call is what it waits for."""
    run = cluster.executed("swallows", "calls")
    assert (run.result(), len(run.steps())) == (1, 2)


@pytest.mark.parametrize(
    ("how", "position", "was", "now"),
    [
        ("argument", 1, "call counter.Square", "call counter.Square"),
        ("other", 2, "wait_event go", "sleep 1"),
        ("less", 2, "wait_event go", "nothing, it has returned"),
    ],
)
def test_other_calls_than_before_are_an_error_that_says_where(
    cluster: WorkflowCluster, how: str, position: int, was: str, now: str
) -> None:
    run = _start(cluster, "changes", how)
    eventually(lambda: _states(run).get("changes/event-2") is StepState.SUSPENDED)
    _change(cluster, True)
    run.post("go")
    run.wait(20)
    outcome = run.outcome("changes")
    assert isinstance(outcome, Dead)
    assert outcome.error.startswith(f"Nondeterministic: changes is not deterministic: its call {position} was '{was}")
    assert f"and is now '{now}" in outcome.error
    assert (outcome.reason, outcome.attempts, run.status().state) == ("deployment", 1, "failed")
    assert "undo changes" not in cluster.noted()
    # With the old code again it goes on.
    _change(cluster, False)
    assert run.retry("changes") is ControlResult.DONE
    assert run.wait(20).state == "completed"
    assert run.result() == [4, 16]


def test_a_call_of_a_task_that_is_not_deployed_compensates_nothing(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("eager mode refuses a task that this process does not have")
    run = cluster.executed("undeployed")
    called, outcome = run.outcome("undeployed/call-2"), run.outcome("undeployed")
    assert isinstance(called, Dead)
    assert isinstance(outcome, Dead)
    assert (called.reason, outcome.reason, run.status().state) == ("unknown task", "deployment", "failed")
    assert "undo before" not in cluster.noted()
    assert run.retry("undeployed/call-2") is ControlResult.DONE
    assert run.wait(20).state == "failed"
    assert run.compensate() is ControlResult.DONE
    assert run.wait(20).state == "compensated"
    assert "undo before" in cluster.noted()
    assert run.compensate() is ControlResult.RUN_COMPENSATED


def _change(cluster: WorkflowCluster, changed: bool) -> None:
    workflow_functions.VERSION["extra"] = int(changed)
    if cluster.has_worker and changed:
        cluster.redis.set("test:changed", "1")
    elif cluster.has_worker:
        cluster.redis.delete("test:changed")


def test_a_replayed_letter_of_a_call_revives_it(cluster: WorkflowCluster) -> None:
    if not cluster.has_worker:
        pytest.skip("eager mode has no keys")
    cluster.redis.delete("test:k1", "test:k2")
    run = cluster.executed("outer", "test:k1", "test:k2")
    assert _states(run) == dict.fromkeys(
        ("outer", "outer/call-1", "outer/call-1/call-1", "outer/call-1/call-2"), StepState.DEAD
    )
    cluster.redis.set("test:k1", "1")
    cluster.redis.set("test:k2", "1")
    letters = cluster.orchestrator.dead_letters
    first = run.outcome("outer/call-1/call-1")
    assert isinstance(first, Dead)
    letters.replay(str(first.letter_id))
    # The function fails anew, with the other call.
    eventually(lambda: _states(run)["outer/call-1/call-1"] is StepState.HANDLED and run.status().ended)
    assert run.retry("outer/call-1/call-2") is ControlResult.DONE
    assert run.wait(20).state == "completed"
    assert run.result() == ["outer", ["test:k1", "test:k2"]]
    assert run.retry("outer/call-1/call-2") is ControlResult.NOT_FAILED


def test_what_a_function_has_caught_stays(cluster: WorkflowCluster) -> None:
    run = cluster.executed("caught")
    outcome = run.outcome("caught/call-2")
    assert isinstance(outcome, Dead)
    assert run.retry("caught/call-2") is ControlResult.RUN_COMPLETED


def test_its_task_alone_is_no_run(cluster: WorkflowCluster) -> None:
    """Of a sender that does not know that it is one. Regression: the attempt was retried."""
    if not cluster.has_worker:
        pytest.skip("the sender's app is the worker's")
    sender = Celery("unaware", broker=cluster.url, set_as_current=False)
    try:
        signature = sender.signature(cluster.function("chain").task_name, args=(1,))
        outcome = Orchestrator(sender).send(signature, retry=Retry(max_retries=3)).wait(timeout_s=30)
    finally:
        sender.close()
    assert isinstance(outcome, Dead)
    assert "is a workflow function; allowed: workflows.start(…)" in outcome.error
    assert (outcome.reason, outcome.attempts) == ("not supervised", 1)


def test_a_fork_keeps_its_calls(cluster: WorkflowCluster) -> None:
    flow = Workflow("forked")
    flow.step("first", cluster.function("squares").s(2))
    flow.step("after", cluster.task("note_all", Reference("first")))
    run = cluster.ended(flow)
    fork = run.fork(after="first")
    assert fork.wait(20).state == "completed"
    assert fork.result("after") == run.result("after")
    assert fork.status().total == run.status().total
    assert fork.outcome("first/call-1") == Handled(4)


def test_show_has_its_calls(cluster: WorkflowCluster) -> None:
    run = cluster.executed("chain", 2)
    graph = run.graph()
    assert [step["name"] for step in graph["steps"]] == ["chain", "chain/call-1", "chain/call-2"]
    json.dumps(graph)
    assert run.progress() == 1.0


def test_many_calls_at_once(cluster: WorkflowCluster) -> None:
    run = cluster.executed("fan", 450)
    assert run.status().state == "completed", run.explain()[:3]
    assert run.result() == 45 * sum(number**2 for number in range(10)) + 450
