"""A compensation that has failed: it is named, and the replay of its letter ends its run as compensated."""

from __future__ import annotations

import pytest

from orchestrator import Dead, Retry, RunEnded, Workflow
from orchestrator.telemetry import Event, attach, detach
from orchestrator.workflows.records import StepState, UndoRecord
from orchestrator.workflows.run import Run
from tests.apps.workflows_app import List, Square, Undo
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster


def _failed(cluster: WorkflowCluster) -> tuple[Run, UndoRecord]:
    """A run of which the second step's undo has failed, and that undo."""
    flow = Workflow("saga", on_failure="compensate")
    first = flow.step("first", List(count=1), to="counter", undo=Undo(what="first"))
    second = flow.step("second", List(count=1), to="counter", undo=Square(number=13), after=first)
    flow.step("fails", cluster.task("fail"), after=second, retry=Retry(max_retries=0))
    run = cluster.ended(flow)
    return run, run.details().undos[0]


def _letter(outcome: object) -> str:
    assert isinstance(outcome, Dead)
    assert outcome.letter_id is not None
    return outcome.letter_id


def test_each_undo_is_named_with_its_state_its_error_and_its_letter(cluster: WorkflowCluster) -> None:
    run, undo = _failed(cluster)
    assert (run.status().state, cluster.noted()[-1]) == ("compensation failed", "undo first")
    assert [(one.name, one.state) for one in run.details().undos] == [
        ("second.undo", StepState.DEAD),
        ("first.undo", StepState.HANDLED),
    ]
    outcome = undo.outcome
    assert isinstance(outcome, Dead)
    letter_id = _letter(outcome)
    after = f"replay its dead letter {letter_id}, or edit it, to have it compensated"
    assert run.explain()[1:] == [
        f"second.undo: dead: {outcome.reason}: {outcome.error}; {after}",
        "first.undo: handled",
    ]
    assert cluster.orchestrator.dead_letters.get(letter_id).delivery_id == f"{run.uid}.{undo.number}"


def test_a_run_is_compensated_once_the_letter_of_its_failed_undo_is_handled(cluster: WorkflowCluster) -> None:
    run, undo = _failed(cluster)
    letters = cluster.orchestrator.dead_letters
    # It fails again, and has another letter.
    letters.replay(_letter(undo.outcome))
    eventually(lambda: _letter(run.details().undos[0].outcome) != _letter(undo.outcome), 20, cluster.log)
    assert run.status().state == "compensation failed"
    letters.edit_and_replay(_letter(run.details().undos[0].outcome), {"number": 2})
    eventually(lambda: run.status().state == "compensated", 20, cluster.log)
    assert [one.state for one in run.details().undos] == [StepState.HANDLED] * 2


def test_the_end_of_a_compensation_by_a_replay_is_an_event(cluster: WorkflowCluster) -> None:
    if cluster.has_worker:
        pytest.skip("the events are its worker's")
    seen: list[Event] = []
    attach(seen.append, "workflow.ended")
    try:
        run, undo = _failed(cluster)
        cluster.orchestrator.dead_letters.edit_and_replay(_letter(undo.outcome), {"number": 2})
    finally:
        detach(seen.append)
    assert run.status().state == "compensated"
    assert [event.metadata["state"] for event in seen] == ["compensation failed", "compensated"]


def test_letters_of_failed_steps_stay_refused(cluster: WorkflowCluster) -> None:
    run, _ = _failed(cluster)
    with pytest.raises(RunEnded, match="allowed: letters of its compensations"):
        cluster.orchestrator.dead_letters.replay(_letter(run.outcome("fails")))
