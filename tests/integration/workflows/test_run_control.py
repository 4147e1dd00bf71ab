"""Deleting runs, pausing workflows, and letters of runs that were compensated."""

from __future__ import annotations

import pytest

from orchestrator import Limit, Orchestrator, Retry, RunEnded, UnknownWorkflow
from orchestrator.core.deliveries.outcome import Dead
from orchestrator.transport.redis import commands
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.records import ControlResult
from tests.apps.workflows_app import List, Undo
from tests.integration.workflows.conftest import waits
from tests.support.eventually import eventually
from tests.support.workflow_cluster import WorkflowCluster


def test_an_ended_run_is_deleted(orchestrator: Orchestrator) -> None:
    run = orchestrator.workflows.start(waits(), workflow_id="w1")
    assert run.delete() is ControlResult.NOT_ENDED
    run.post("approved")
    assert run.delete() is ControlResult.DONE
    assert list(orchestrator.workflows.list()) == []
    with pytest.raises(UnknownWorkflow, match="'w1'"):
        orchestrator.workflows.get("w1")
    with pytest.raises(UnknownWorkflow, match="'w1'"):
        run.delete()
    assert orchestrator.workflows.start(waits(), workflow_id="w1").uid != run.uid


def test_nothing_of_a_deleted_run_is_left_in_redis(redis_url: str) -> None:
    from tests.apps import workflows_app

    orchestrator = workflows_app.make(redis_url)
    run = orchestrator.workflows.start(waits())
    run.post("approved")
    run.delete()
    assert list(orchestrator.runtime.store.client.scan_iter("orc:run*")) == []


def test_a_run_that_goes_on_is_deleted_if_forced(orchestrator: Orchestrator) -> None:
    flow = waits()
    flow.limit = Limit(1)
    first, second = (orchestrator.workflows.start(flow, workflow_id=name) for name in ("w1", "w2"))
    assert second.status().state == "queued"
    assert first.delete(force=True) is ControlResult.DONE
    with pytest.raises(UnknownWorkflow, match="'w1'"):
        first.wait(5)
    assert [status.id for status in orchestrator.workflows.list()] == ["w2"]
    assert second.status().state == "running"


def test_what_a_deleted_run_has_out_counts_and_changes_nothing(redis_url: str) -> None:
    from tests.apps import workflows_app

    cluster = WorkflowCluster(redis_url, None, workflows_app.make(redis_url), [])
    flow = Workflow("two")
    first = flow.step("first", cluster.task("add", 1))
    flow.step("beside", cluster.task("add", 1))
    flow.step("second", cluster.task("add", first.result, 1))
    run = cluster.orchestrator.workflows.start(flow)
    keys, levels = cluster.keys, cluster.orchestrator.runtime.store.levels
    store = cluster.orchestrator.runtime.store
    reply = store.run(*commands.claim(keys, ["celery"], levels, "w", 1))
    assert run.delete(force=True) is ControlResult.DONE
    assert [key for key in cluster.redis.scan_iter("orc:run*") if cluster.redis.ttl(key) == -1] == []
    entry, stream = reply[2].decode(), keys.stream("celery", levels[1])
    outcome = '{"outcome":"handled","result":1,"attempts":1}'
    call = commands.settle_with_outcome(
        stream, keys.ledger("celery"), keys.outcome(f"{run.uid}.0"), entry, "handled", outcome, 60_000
    )
    store.run(*call)
    row = cluster.row("celery")
    assert (row.accepted, row.handled, row.cancelled, row.pending) == (2, 1, 1, 0)
    assert cluster.redis.exists(keys.run(run.uid)) == 0
    cluster.close()


def test_a_retry_that_is_too_late_says_why(cluster: WorkflowCluster) -> None:
    flow = Workflow("guarded")
    failed = flow.step("fails", cluster.task("fail"), retry=Retry(max_retries=0))
    flow.step("event", cluster.task("note", "it"), after=failed, when="any_failed")
    waits = flow.wait("waits", event="go")
    flow.step("last", cluster.task("fail"), after=waits, retry=Retry(max_retries=0))
    run = cluster.orchestrator.workflows.start(flow)
    eventually(lambda: run.status().handled == 1)
    assert run.retry("fails") is ControlResult.OTHERS_BEGAN
    assert run.retry("waits") is ControlResult.NOT_FAILED
    run.cancel()
    assert run.retry("fails") is ControlResult.RUN_CANCELLED


def test_an_event_counts_before_its_wait_and_not_after_the_end(orchestrator: Orchestrator) -> None:
    flow = Workflow("two-waits")
    first = flow.wait("first", event="begin")
    flow.wait("second", event="go", after=first)
    run = orchestrator.workflows.start(flow)
    assert [run.post("go", {"number": number}) for number in (1, 2)] == [ControlResult.DONE] * 2
    assert run.status().state == "running"
    run.post("begin")
    assert (run.status().state, run.result("second")) == ("completed", {"number": 1})
    assert run.post("go", {"number": 3}) is ControlResult.TOO_LATE
    assert run.result("second") == {"number": 1}


def test_a_paused_workflow_pauses_all_of_its_runs(orchestrator: Orchestrator) -> None:
    workflows = orchestrator.workflows
    first, by_hand, other = workflows.start(waits()), workflows.start(waits()), Workflow("other")
    other.wait("approval", event="approved")
    apart = workflows.start(other)
    by_hand.pause()
    assert workflows.pause("waits") == 1
    later = workflows.start(waits())
    assert [run.status().paused for run in (first, by_hand, later, apart)] == [True, True, True, False]
    assert workflows.pause("waits") == 0
    assert workflows.resume("waits") == 2
    assert [run.status().paused for run in (first, by_hand, later)] == [False, True, False]
    assert workflows.start(waits()).status().paused is False


def test_a_letter_of_a_compensated_run_stays_a_letter(cluster: WorkflowCluster) -> None:
    flow = Workflow("saga", on_failure="compensate")
    first = flow.step("first", List(count=1), to="counter", undo=Undo(what="first"))
    flow.step("fails", cluster.task("fail"), after=first, retry=Retry(max_retries=0))
    run = cluster.ended(flow)
    outcome = run.outcome("fails")
    assert isinstance(outcome, Dead)
    letters, letter_id = cluster.orchestrator.dead_letters, outcome.letter_id
    assert letter_id is not None
    with pytest.raises(RunEnded, match="'celery'"):
        letters.replay(letter_id)
    before = len(letters.list(1000))
    replayed = letters.query(error="ValueError").replay(all=True)
    assert letters.get(letter_id).id == letter_id
    assert (replayed.stopped, len(letters.list(1000)) <= before) == ("", True)
    assert [(count, "compensated" in why) for why, count in replayed.refused.items()] == [(1, True)]
    assert run.status().state == "compensated"
