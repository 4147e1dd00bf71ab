"""A cluster whose workers run the steps of workflows, and the same app in eager mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import Orchestrator
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.definition import Workflow
from tests.apps import workflows_app
from tests.support.cluster import NO_REDIS
from tests.support.lost_answers import LostAnswers
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster


@pytest.fixture(scope="module", params=["eager", "solo", "threads"])
def workflow_cluster(request: pytest.FixtureRequest) -> Iterator[WorkflowCluster]:
    """Eager mode, or a worker of a pool."""
    if request.param == "eager":
        yield WorkflowCluster(NO_REDIS, None, workflows_app.make(eager=True), workflows_app.NOTED)
        return
    concurrency = 1 if request.param == "solo" else 4
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool=request.param, concurrency=concurrency, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        yield cluster
        cluster.close()


@pytest.fixture
def cluster(workflow_cluster: WorkflowCluster) -> WorkflowCluster:
    """The same, with nothing noted."""
    workflow_cluster.forget()
    return workflow_cluster


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Orchestrator]:
    """An app without a worker: for runs of waits."""
    made = workflows_app.make(redis_url, eager=request.param == "eager")
    yield made
    made.app.close()


@pytest.fixture
def lossy(network: LostAnswers) -> Iterator[Orchestrator]:
    """An app without a worker, by that network."""
    made = workflows_app.make(network.url)
    yield made
    made.app.close()


def waits() -> Workflow:
    """A workflow that waits for the event ``approved``."""
    flow = Workflow("waits")
    flow.wait("approval", event="approved")
    return flow
