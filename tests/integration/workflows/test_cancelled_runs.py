"""A cancelled run, and its messages that a worker has or that wait for their next attempt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import Constant, Retry
from orchestrator.core.deliveries.outcome import Cancelled
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.records import ControlResult
from tests.apps import workflows_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster


@pytest.fixture(scope="module", params=["solo", "threads", "prefork"])
def workers(request: pytest.FixtureRequest) -> Iterator[WorkflowCluster]:
    """One slot."""
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool=request.param, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        yield cluster
        cluster.close()


@pytest.fixture
def cluster(workers: WorkflowCluster) -> WorkflowCluster:
    workers.forget()
    return workers


def test_a_step_between_two_attempts_is_not_tried_again(cluster: WorkflowCluster) -> None:
    flow = Workflow("retried")
    flow.step("fails", cluster.task("fail"), retry=Retry(max_retries=5, backoff=Constant(delay_s=0.3)))
    run = cluster.orchestrator.workflows.start(flow)
    eventually(lambda: cluster.redis.zcard(cluster.keys.delayed("celery")) == 1)
    attempts = cluster.noted()
    assert run.cancel() is ControlResult.DONE
    assert run.wait(20).state == "cancelled"
    assert cluster.noted() == attempts
    assert run.outcome("fails") == Cancelled("its run was cancelled")
    assert cluster.redis.scard(cluster.keys.cancelling) == 0


def test_what_a_worker_has_claimed_ahead_does_not_begin(cluster: WorkflowCluster) -> None:
    flow = Workflow("claimed")
    flow.step("held", cluster.task("hold", "a"))
    for n in range(5):
        flow.step(f"note-{n}", cluster.task("note", f"note {n}"))
    run = cluster.orchestrator.workflows.start(flow)
    eventually(lambda: cluster.noted() == ["begun a"])
    assert run.cancel() is ControlResult.DONE
    now = cluster.redis.time()
    now_ms = now[0] * 1000 + now[1] // 1000
    eventually(lambda: all(ms > now_ms for _, ms in cluster.redis.zrange(cluster.keys.leases, 0, -1, withscores=True)))
    cluster.redis.rpush("test:go:a", "1")
    status = run.wait(20)
    assert (status.state, status.handled, status.cancelled) == ("cancelled", 1, 5)
    assert cluster.noted() == ["begun a"]
