"""Runs whose messages are gone are found, and go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import OutdatedWorker
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.telemetry import Event, attach, detach
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.redis.run_repair import RunRepair
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.apps.workflows_app import Square
from tests.support.workflow_cluster import WorkflowCluster


@pytest.fixture
def cluster(redis_url: str) -> Iterator[WorkflowCluster]:
    """No worker."""
    cluster = WorkflowCluster(redis_url, None, workflows_app.make(redis_url), [])
    yield cluster
    cluster.close()


def _started(cluster: WorkflowCluster) -> Run:
    flow = Workflow("two")
    first = flow.step("first", cluster.task("add", 1))
    flow.step("second", cluster.task("add", first.result, 1))
    return cluster.orchestrator.workflows.start(flow)


def _repaired(cluster: WorkflowCluster, late_s: float = 0) -> int:
    redis = cluster.orchestrator.runtime.redis
    return RunRepair(redis.runs.reads, lambda: redis.store, late_s).run(budget_s=30)


def _delete_stream(cluster: WorkflowCluster) -> None:
    for step in cluster.orchestrator.runtime.store.levels:
        cluster.redis.delete(cluster.keys.stream("celery", step))


def test_a_message_whose_stream_was_deleted_is_sent_again(cluster: WorkflowCluster) -> None:
    run = _started(cluster)
    assert _repaired(cluster) == 0
    _delete_stream(cluster)
    assert _repaired(cluster, late_s=60) == 0
    seen: list[Event] = []
    attach(seen.append, "workflow.repaired")
    assert _repaired(cluster) == 1
    detach(seen.append)
    assert [(event.metadata["id"], event.metadata["uid"]) for event in seen] == [(run.id, run.uid)]
    assert cluster.row("celery").pending == 1
    assert (run.status().state, run.status().open) == ("running", 1)
    assert _repaired(cluster) == 0


def test_an_outcome_that_was_recorded_without_hooks_releases_what_depends_on_it(cluster: WorkflowCluster) -> None:
    run = _started(cluster)
    _delete_stream(cluster)
    cluster.redis.rpush(cluster.keys.outcome(f"{run.uid}.0"), '{"outcome":"handled","result":1,"attempts":1}')
    assert _repaired(cluster) == 1
    assert run.outcome("first") == Handled(1, 1)
    assert [str(step.state) for step in run.steps()] == ["handled", "sent"]


def test_a_lost_message_of_a_cancelled_run_ends_it(cluster: WorkflowCluster) -> None:
    run = _started(cluster)
    _delete_stream(cluster)
    run.cancel()
    assert run.status().open == 1
    assert _repaired(cluster) == 1
    assert (run.status().state, run.status().ended) == ("cancelled", True)


def test_a_lost_message_of_a_paused_run_is_sent_when_it_is_resumed(cluster: WorkflowCluster) -> None:
    run = _started(cluster)
    _delete_stream(cluster)
    run.pause()
    assert _repaired(cluster) == 1
    assert cluster.row("celery").pending == 0
    run.resume()
    assert cluster.row("celery").pending == 1


def test_a_function_whose_calls_have_all_ended_is_sent_again(cluster: WorkflowCluster) -> None:
    """A worker of another version has recorded the last outcome."""
    run = cluster.orchestrator.workflows.start(cluster.function("squares"), 2)
    _delete_stream(cluster)
    key = cluster.keys.run(run.uid)
    cluster.redis.hset(f"{key}:states", mapping={"0": "y2", "1": "h", "2": "s1-1"})
    cluster.redis.hset(f"{key}:calls", "0", "2:1-2")
    # Its calls are no steps of its plan: only the function is looked at.
    assert _repaired(cluster, late_s=60) == 0
    cluster.redis.hset(f"{key}:states", "2", "d")
    run.pause()
    assert _repaired(cluster) == 1
    assert cluster.redis.hget(f"{key}:states", "0") == b"r"
    assert _repaired(cluster) == 0
    run.resume()
    # The other one that is open stands for a step that keeps the run from its end.
    assert (cluster.row("celery").pending, run.status().open) == (1, 2)


def test_expired_runs_are_taken_off_the_lists(cluster: WorkflowCluster) -> None:
    run = _started(cluster)
    kept = _started(cluster)
    cluster.redis.delete(cluster.keys.run(run.uid))
    assert cluster.orchestrator.runtime.redis.runs.upkeep.forget_expired() == 1
    assert [status.uid for status in cluster.orchestrator.workflows.list()] == [kept.uid]
    assert list(cluster.redis.hvals(cluster.keys.runs_by_id)) == [kept.uid.encode()]


def test_no_run_is_started_on_workers_that_release_no_steps(cluster: WorkflowCluster) -> None:
    keys, old = cluster.keys, "old@host:1#1"
    fields = {"queues": '["celery"]', "library_version": "0.0.9", "agents": "[]"}
    cluster.redis.hset(keys.incarnation(old), mapping=fields)
    cluster.redis.zadd(keys.leases, {old: 1})
    with pytest.raises(OutdatedWorker, match=r"incarnation old@host:1#1, of version 0\.0\.9 .* consumes 'celery'"):
        _started(cluster)
    assert cluster.redis.keys("orc:run*") == []
    elsewhere = Workflow("elsewhere")
    elsewhere.step("square", Square(number=2), to="counter")
    assert cluster.orchestrator.workflows.start(elsewhere).status().open == 1
