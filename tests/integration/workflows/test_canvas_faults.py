"""Public faults of Celery's canvas, as canvas on real workers: deaths and redeliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord, group

from orchestrator import Constant, Handled, Retry, Workflow
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster

SOON = Retry(max_retries=5, backoff=Constant(0.05))


@pytest.fixture
def mortal() -> Iterator[WorkflowCluster]:
    """A cluster whose worker a test may kill and start again."""
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool="solo", queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        yield cluster
        cluster.close()


def _started(cluster: WorkflowCluster, canvas: Any, **options: Any) -> Run:
    return cluster.orchestrator.workflows.start(Workflow.from_canvas(canvas, **options))


def _completed(cluster: WorkflowCluster, run: Run) -> Run:
    status = run.wait(30)
    assert status.state == "completed", f"{run.explain()}\n{cluster.log()}"
    return run


def _until_noted(cluster: WorkflowCluster, least: int) -> None:
    eventually(lambda: len(cluster.noted()) >= least, describe=cluster.log)


def _killed_while_holding(cluster: WorkflowCluster, key: str) -> None:
    eventually(lambda: f"begun {key}" in cluster.noted(), describe=cluster.log)
    cluster.worker.kill()
    # One for the killed worker: Redis may not have noticed its end yet.
    cluster.redis.rpush(f"test:go:{key}", 1, 1)
    cluster.worker.start()


def test_a_chords_body_is_not_lost_with_the_worker_of_its_last_task(mortal: WorkflowCluster) -> None:
    """celery#4207: a kill where the last task of a header ends lost the body."""
    task = mortal.task
    run = _started(mortal, chord([task("add", 1), task("hold", "last")], task("note", "body").set(immutable=True)))
    _killed_while_holding(mortal, "last")
    assert _completed(mortal, run).result() == "body"
    assert mortal.noted().count("body") == 1


def test_no_body_is_lost_or_doubled_whenever_a_worker_is_killed(mortal: WorkflowCluster) -> None:
    task = mortal.task
    runs = [
        _started(mortal, chord([task("add", n) for n in range(10)], chain(task("total"), task("note"))))
        for _ in range(20)
    ]
    for killed in range(1, 4):
        _until_noted(mortal, 5 * killed)
        mortal.worker.kill()
        mortal.worker.start()
    for run in runs:
        assert _completed(mortal, run).result() == 45
        assert run.status().handled == 12


def test_a_part_that_ran_twice_with_another_result_counts_once(mortal: WorkflowCluster) -> None:
    """A redelivered part whose result differed was counted as a second one, so that the body ran early or never."""
    task = mortal.task
    run = _started(mortal, chord([task("hold_and_count", "part"), task("add", 1)], task("note_all")))
    _killed_while_holding(mortal, "part")
    assert _completed(mortal, run).result() == [2, 1]
    assert mortal.noted().count("body") == 1


def test_a_header_may_outlast_result_expires(mortal: WorkflowCluster) -> None:
    """celery#5237: the counters of a chord expired with ``result_expires``, and with them the body."""
    app = mortal.orchestrator.app
    app.conf.result_expires = 1
    run = _started(
        mortal,
        chord([mortal.task("add", 1), mortal.task("hold", "slow")], mortal.task("note", "body").set(immutable=True)),
    )
    eventually(lambda: "begun slow" in mortal.noted(), describe=mortal.log)
    # What expires has a time to live from its writing on; nothing of a run that lasts has one.
    keys = [key.decode() for key in mortal.redis.scan_iter(f"{mortal.keys.run(run.uid)}*")]
    assert {f"{mortal.keys.run(run.uid)}:outcomes", mortal.keys.run(run.uid)} <= set(keys)
    assert {mortal.redis.ttl(key) for key in keys} == {-1}
    mortal.redis.rpush("test:go:slow", 1)
    assert _completed(mortal, run).result() == "body"


@pytest.mark.parametrize("fails", ["header", "body"])
def test_callbacks_wait_for_parts_that_are_retried(mortal: WorkflowCluster, fails: str) -> None:
    """celery#2324, celery#2405: a body ran while parts were retried, or an errback for a failure before the last."""
    task = mortal.task
    part, body = task("needs", "test:there"), task("note_all")
    for signature in (part, body):
        signature.link_error(task("failed_id"))
    canvas = chord([part, task("add", 1)], body)
    if fails == "body":
        canvas = chord(
            [task("add", 1), task("add", 2)], chain(part.set(immutable=True), task("note", "on").set(immutable=True))
        )
    run = _started(mortal, canvas, retry=Retry(max_retries=200, backoff=Constant(0.05)))
    eventually(lambda: sum(row.retried for row in mortal.orchestrator.ledger()) >= 2, describe=mortal.log)
    assert mortal.noted() == []
    mortal.redis.set("test:there", 1)
    _completed(mortal, run)
    assert mortal.noted() == (["body"] if fails == "header" else ["on"])


def test_nested_chords_grow_with_the_number_of_their_tasks() -> None:
    """celery#3571, celery#5286, celery#9202: each part of a header carried the rest of the canvas."""
    orchestrator = workflows_app.make(eager=True)
    add = orchestrator.app.tasks["plain.add"]
    total = orchestrator.app.tasks["plain.total"]

    def sizes(depth: int) -> tuple[int, int]:
        canvas: Any = add.s(1)
        for _ in range(depth):
            canvas = chord([canvas, add.s(1)], total.s())
        flow = Workflow.from_canvas(canvas)
        arguments = sum(len(repr(step.message.args)) for step in flow.steps if step.message is not None)
        return len(flow.steps), arguments

    steps, arguments = sizes(10)
    assert (steps, sizes(40)[0]) == (21, 81)
    assert sizes(40)[1] < 5 * arguments
    chords = [group(add.s(1), add.s(2)) if n % 2 == 0 else total.s() for n in range(60)]
    flow = Workflow.from_canvas(chain(add.s(1), *chords))
    assert len(flow.steps) == 91
    assert max(len(repr(step.message.args)) for step in flow.steps) < 200


def test_a_chain_of_chords_on_workers(mortal: WorkflowCluster) -> None:
    task = mortal.task
    links = [link for _ in range(8) for link in (group(task("add", 1), task("add", 2)), task("total"))]
    run = _completed(mortal, _started(mortal, chain(task("add", 0), *links)))
    # Each chord doubles what it is given, and adds three.
    assert run.result() == 3 * (2**8 - 1)
    assert run.outcome("plain.total-1") == Handled(3, 1)
