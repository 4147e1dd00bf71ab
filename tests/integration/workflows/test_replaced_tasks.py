"""``Task.replace`` in a canvas that is run as a workflow; public faults of Celery's own are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord, group

from orchestrator import Expand, Workflow
from orchestrator.core.workflows.plan import number_of
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster


def _run(cluster: WorkflowCluster, canvas: Any) -> Run:
    run = cluster.ended(Workflow.from_canvas(canvas))
    assert run.status().state == "completed", run.explain()
    return run


@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("task", 3),
        ("group", [1, 2]),
        ("chord", 3),
        ("chain", 2),
        ("chain of a group", [2, 3]),
        ("again", 3),
        ("empty", []),
    ],
)
def test_a_chords_body_waits_for_what_replaces_a_task_of_its_header(
    cluster: WorkflowCluster, how: str, result: Any
) -> None:
    """celery#4196, celery#4368, celery#9484: the body was never called."""
    canvas = chord([cluster.task("add", 7), cluster.task("replaced", how, 1, 2)], cluster.task("note_all"))
    assert _run(cluster, canvas).result() == [7, result]
    assert cluster.noted().count("body") == 1


def test_results_keep_the_order_of_their_tasks(cluster: WorkflowCluster) -> None:
    """celery#10191: the results of what replaced a task were mixed with those of its siblings."""
    members = [cluster.task("replaced", how, 5, 6) for how in ("chord", "task", "group")]
    canvas = chord([cluster.task("add", 1), *members, cluster.task("add", 2)], cluster.task("note_all"))
    assert _run(cluster, canvas).result() == [1, 11, 11, [5, 6], 2]


def test_a_body_and_a_link_of_a_chain_are_replaced(cluster: WorkflowCluster) -> None:
    """celery#2722, celery#3235: what followed a replaced task in a chain was never called."""
    replaced = cluster.orchestrator.app.tasks["plain.replaced"]
    body = replaced.s("chord", 1, 2).set(immutable=True)
    canvas = chain(chord([cluster.task("add", 1), cluster.task("add", 2)], body), cluster.task("add", 10))
    assert _run(cluster, canvas).result() == 13
    assert _run(cluster, chain(body, cluster.task("add", 1), group(cluster.task("add", 1)))).result() == 5


def test_an_errback_is_called_for_what_replaces_its_task(cluster: WorkflowCluster) -> None:
    """celery#8678: replacing a task that has an errback raised an error of Celery's own."""
    task = cluster.task("replaced", "fails").on_error(cluster.task("failed"))
    run = cluster.ended(Workflow.from_canvas(chord([cluster.task("add", 1), task], cluster.task("note_all"))))
    assert run.status().state == "failed"
    [noted] = [note for note in cluster.noted() if note.startswith("plain.fail ")]
    number = noted.split()[1]
    assert noted == f"plain.fail {number} SendFailed ValueError: it fails"
    [failed] = [step.name for step in run.steps() if step.number == number]
    assert failed == "plain.replaced-1/plain.fail-1"


@pytest.fixture
def mortal() -> Iterator[WorkflowCluster]:
    """A cluster with a prefork worker that a test may kill and start again."""
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool="prefork", concurrency=1, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        yield cluster
        cluster.close()


def test_what_a_killed_attempt_has_written_has_no_effect(mortal: WorkflowCluster) -> None:
    hold, replaced = mortal.task("hold", "go"), mortal.task("replaced", "chord", 1, 2)
    flow = Workflow("held")
    held = flow.step("held", hold)
    flow.step("then", replaced, after=held)
    run = mortal.orchestrator.workflows.start(flow)
    eventually(lambda: "begun go" in mortal.noted(), describe=mortal.log)
    # As the attempt that is killed would have: it has written its steps, and not told its outcome.
    header = {"uid": run.uid, "id": run.id, "step": "0", "name": "held"}
    steps = [mortal.task("note", "never")] * 3
    assert mortal.orchestrator.runtime.steps.expand(header, Expand(steps)).first == 2
    mortal.worker.kill()
    mortal.redis.rpush("test:go:go", "1", "1")
    mortal.worker.start()
    assert run.wait(30).state == "completed", mortal.log()
    assert (run.result("held"), run.result("then")) == ("go", 3)
    # Both steps, and a chord of two with the join that ends it; the others are no steps of the run.
    assert run.status().total == len(run.steps()) == run.status().handled == 6
    assert {number_of(step.number) for step in run.steps()} == {"0", "1", "6", "7", "8", "9"}
    assert "never" not in mortal.noted()
