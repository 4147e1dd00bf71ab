"""A long handler learns that it was cancelled, in all pools."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from orchestrator import CancelResult, Orchestrator, Workflow
from orchestrator.core.outcome import Handled
from orchestrator.embedded import EmbeddedServer
from tests.apps import workflows_app
from tests.apps.workflows_app import Hold
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster


@pytest.fixture(params=["solo", "prefork"])
def cluster(request: pytest.FixtureRequest) -> Iterator[WorkflowCluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool=request.param, concurrency=1, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        yield cluster
        cluster.close()


def _noted(cluster: WorkflowCluster, *notes: str) -> bool:
    return cluster.noted() == list(notes)


def test_steps_learn_that_their_run_was_cancelled(cluster: WorkflowCluster) -> None:
    for step in ("agent", "task"):
        cluster.forget()
        flow = Workflow("long")
        if step == "agent":
            flow.step("long", Hold(what="agent"), to="counter")
        else:
            flow.step("long", cluster.task("until_cancelled"))
        run = cluster.orchestrator.workflows.start(flow)
        eventually(partial(_noted, cluster, f"begun {step}"), 20, cluster.log)
        run.cancel()
        assert run.wait(20).state == "cancelled"
        assert run.outcome("long") == Handled("cleaned up", 1)
        assert cluster.noted() == [f"begun {step}", "cancelled"]


def test_a_plain_delivery_learns_it_too(cluster: WorkflowCluster) -> None:
    delivery = cluster.orchestrator.send("counter", Hold(what="it"))
    eventually(partial(_noted, cluster, "begun it"), 20, cluster.log)
    if delivery.cancel() is CancelResult.INTERRUPTING:
        pytest.skip("a prefork pool ends the process that runs it")
    eventually(partial(_noted, cluster, "begun it", "cancelled"), 20, cluster.log)


def test_nothing_is_cancelled_in_eager_mode_but_a_run() -> None:
    orchestrator: Orchestrator = workflows_app.make(eager=True)
    seen = []

    def look() -> None:
        step = orchestrator.workflows.current_step()
        assert step is not None
        seen.append(step.cancelled)
        orchestrator.workflows.get(step.id).cancel()
        seen.append(orchestrator.workflows.current_step().cancelled)  # type: ignore[union-attr]

    flow = Workflow("cancels-itself")
    flow.step("look", orchestrator.app.task(name="plain.look", shared=False)(look).s())
    run = orchestrator.workflows.start(flow)
    assert (seen, run.status().state) == ([False, True], "cancelled")
