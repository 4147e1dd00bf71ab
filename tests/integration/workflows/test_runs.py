"""What a run does, in eager mode and on real workers alike."""

from __future__ import annotations

import pytest

from orchestrator import Retry
from orchestrator.core.deliveries.outcome import Dead, Handled
from orchestrator.core.errors import WorkflowExists
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.records import ControlResult, StepState
from orchestrator.workflows.references import ITEM
from tests.apps.workflows_app import List, Square, Sum, Undo
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster

ONCE = Retry(max_retries=0)


def _squares(count: int, **options: object) -> Workflow:
    flow = Workflow("squares")
    numbers = flow.step("list", List(count=count), to="counter")
    over = numbers.result["numbers"]
    squares = flow.map("square", Square, over=over, fields={"number": ITEM}, to="counter", **options)  # type: ignore[arg-type]
    flow.step("sum", Sum, fields={"numbers": squares.result}, to="counter")
    return flow


def _states(run: object) -> dict[str, StepState]:
    return {step.name: step.state for step in run.steps()}  # type: ignore[attr-defined]


def test_a_map_and_its_sum(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_squares(5))
    assert run.status().state == "completed"
    assert run.result("square") == [0, 1, 4, 9, 16]
    assert run.result("sum") == 30
    assert run.progress() == 1.0


@pytest.mark.parametrize("limit", [1, 3])
def test_a_map_with_a_limit_has_all_results(cluster: WorkflowCluster, limit: int) -> None:
    assert cluster.ended(_squares(10, limit=limit)).result("sum") == 285


def test_a_map_over_nothing(cluster: WorkflowCluster) -> None:
    run = cluster.ended(_squares(0))
    assert (run.status().state, run.result("square"), run.result("sum")) == ("completed", [], 0)


def test_a_map_over_what_is_no_list_is_dead(cluster: WorkflowCluster) -> None:
    flow = Workflow("no-list")
    number = flow.step("number", cluster.task("add", 1, 2))
    flow.map("square", Square, over=number.result, fields={"number": ITEM}, to="counter")
    run = cluster.ended(flow)
    outcome = run.outcome("square")
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error) == ("validation", "map over what is no list: number.result")


def test_a_map_over_a_part_that_is_not_there_is_dead(cluster: WorkflowCluster) -> None:
    flow = Workflow("no-part")
    numbers = flow.step("numbers", List(count=2), to="counter")
    flow.map("square", Square, over=numbers.result["numbersx"], fields={"number": ITEM}, to="counter")
    outcome = cluster.ended(flow).outcome("square")
    assert isinstance(outcome, Dead)
    error = "InvalidStepInput: a result has no such part: numbers.result['numbersx']"
    assert (outcome.reason, outcome.error) == ("validation", error)


def test_a_failed_step_stops_the_run(cluster: WorkflowCluster) -> None:
    flow = Workflow("stopped")
    failed = flow.step("fails", cluster.task("fail"), retry=ONCE)
    flow.step("never", cluster.task("note", "never"), after=failed)
    run = cluster.ended(flow)
    assert run.status().state == "failed"
    assert _states(run) == {"fails": StepState.DEAD, "never": StepState.WAITING}
    assert "never" not in cluster.noted()


def test_a_result_that_is_too_large_is_dead_at_once(cluster: WorkflowCluster) -> None:
    flow = Workflow("large")
    limit = cluster.orchestrator.settings.result_limit_bytes
    fits = flow.step("fits", cluster.task("text", limit - 2))
    flow.step("large", cluster.task("text", limit - 1), after=fits)
    run = cluster.ended(flow)
    outcome = run.outcome("large")
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.attempts) == ("result too large", 1)
    assert f"{limit + 1} bytes" in outcome.error
    # Only the results of steps are kept with a run.
    assert isinstance(cluster.orchestrator.send(cluster.task("text", limit)).wait(20), Handled)


def test_another_branch_goes_on(cluster: WorkflowCluster) -> None:
    flow = Workflow("branches", on_failure="continue")
    flow.step("fails", cluster.task("fail"), retry=ONCE)
    first = flow.step("first", cluster.task("note", "first"))
    flow.step("second", cluster.task("note", "second"), after=first)
    run = cluster.ended(flow)
    assert run.status().state == "failed"
    assert run.outcome("second") == Handled("second", 1)


def test_a_step_for_the_failure_and_one_for_any_end(cluster: WorkflowCluster) -> None:
    flow = Workflow("guarded")
    failed = flow.step("fails", cluster.task("fail"), retry=ONCE)
    skipped = flow.step("then", cluster.task("note", "then"), after=failed)
    flow.step("rescue", cluster.task("note", "rescue"), after=failed, when="any_failed")
    flow.step("finally", cluster.task("note", "finally"), after=skipped, when="all_ended")
    run = cluster.ended(flow)
    assert run.status().state == "completed"
    assert _states(run)["then"] is StepState.SKIPPED
    assert sorted(cluster.noted()) == ["fail", "finally", "rescue"]


def test_compensations_run_in_reverse_order(cluster: WorkflowCluster) -> None:
    flow = Workflow("saga", on_failure="compensate")
    first = flow.step("first", cluster.task("add", 1), undo=cluster.task("note", "undo first"))
    second = flow.step("second", List(count=1), to="counter", undo=Undo(what="second"), after=first)
    flow.step("fails", cluster.task("fail"), after=second, retry=ONCE)
    run = cluster.ended(flow)
    assert run.status().state == "compensated"
    assert cluster.noted() == ["fail", "undo second", "undo first"]


def test_a_wait_for_an_event(cluster: WorkflowCluster) -> None:
    flow = Workflow("approval")
    approval = flow.wait("approval", event="approved")
    flow.step("sum", cluster.task("add", approval.result["by"], 1))
    run = cluster.orchestrator.workflows.start(flow)
    assert run.explain()[1] == "approval: waits for the event approved"
    assert run.post("approved", {"by": 41}) is ControlResult.DONE
    assert run.post("approved", {"by": 0}) in (ControlResult.DONE, ControlResult.TOO_LATE)
    run.wait(20)
    assert run.result("sum") == 42


def test_a_wait_for_a_time(cluster: WorkflowCluster) -> None:
    flow = Workflow("pause")
    pause = flow.wait("pause", seconds=0.01)
    flow.step("note", cluster.task("note", "later"), after=pause)
    assert cluster.ended(flow).result("note") == "later"


def test_one_run_for_an_id(cluster: WorkflowCluster) -> None:
    first = cluster.ended(_squares(2), workflow_id="once")
    again = cluster.orchestrator.workflows.start(_squares(2), workflow_id="once")
    assert again.uid == first.uid
    with pytest.raises(WorkflowExists, match="'once'"):
        cluster.orchestrator.workflows.start(_squares(3), workflow_id="once")


def test_a_replayed_dead_letter_revives_its_run(cluster: WorkflowCluster) -> None:
    flow = Workflow("revived")
    square = flow.step("square", Square(number=13), to="counter")
    flow.step("note", cluster.task("note", "on"), after=square)
    run = cluster.ended(flow)
    assert run.status().state == "failed"
    outcome = run.outcome("square")
    assert isinstance(outcome, Dead)
    assert outcome.letter_id is not None
    cluster.orchestrator.dead_letters.edit_and_replay(outcome.letter_id, {"number": 2})
    eventually(lambda: run.status().state == "completed")
    assert (run.result("square"), run.result("note")) == (4, "on")
