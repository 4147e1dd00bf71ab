"""A long handler learns that it was cancelled, in all pools."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pytest

from orchestrator import (
    Agent,
    CancelledStep,
    CancelResult,
    Context,
    Message,
    Orchestrator,
    Workflow,
    handles,
)
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.embedded import EmbeddedServer
from tests.apps import workflows_app
from tests.apps.workflows_app import Hold, Undo
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
        # One slot: the agent's message waits for it. A task has no such method.
        told = ["on_cancelled Hold long long"] if step == "agent" else []
        eventually(partial(_noted, cluster, f"begun {step}", "cancelled", *told), 20, cluster.log)
        cluster.idle()


def test_on_cancelled_is_called_once_for_what_was_begun_and_for_nothing_else(cluster: WorkflowCluster) -> None:
    cluster.forget()
    flow = Workflow("long", on_failure="compensate")
    for step in ("first", "second"):
        flow.step(step, Hold(what=step), to="counter")
    flow.step("third", Undo(what="third"), to="counter", after="second")
    # The first one has begun by then, on a busy machine, too.
    run = cluster.orchestrator.workflows.start(flow, deadline_s=2)
    assert run.wait(20).because == "deadline passed"
    cluster.idle()
    # Of two messages one slot has one, and may have claimed the other.
    told = [note for note in cluster.noted() if note.startswith("on_cancelled")]
    assert told[0] == "on_cancelled Hold long first deadline passed"
    assert len(told) == len(set(told)) <= 2
    assert all(row.accepted == row.handled + row.cancelled for row in cluster.orchestrator.ledger())


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


def test_eager_mode_calls_on_cancelled_of_a_step_that_runs() -> None:
    class Stop(Message):
        """Cancels its own run."""

    class Stopping(Agent):
        name = "stopping"
        cancelled: ClassVar[list[CancelledStep]] = []

        @handles(Stop)
        def stop(self, message: Stop, context: Context) -> None:
            assert context.workflow is not None
            context.orchestrator.workflows.get(context.workflow.id).cancel()

        def on_cancelled(self, cancelled: CancelledStep, context: Context) -> None:
            assert context.id == f"cancelled-{cancelled.id}"
            self.cancelled.append(cancelled)

    orchestrator: Orchestrator = workflows_app.make(eager=True)
    orchestrator.host(Stopping)
    flow = Workflow("stops")
    stop = flow.step("stop", Stop(), to="stopping")
    flow.step("never", Stop(), to="stopping", after=stop)
    run = orchestrator.workflows.start(flow, workflow_id="w")
    assert run.status().state == "cancelled"
    [told] = Stopping.cancelled
    expected = {"message": "Stop", "workflow_id": "w", "workflow": "stops", "step": "stop", "because": ""}
    assert told == CancelledStep(id=f"{run.uid}.0", uid=run.uid, **expected)
