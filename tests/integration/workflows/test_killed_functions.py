"""Workflow functions whose workers are killed: while a function waits, while it is executed, and at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.records import StepState
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster


@contextmanager
def _cluster(pool: str, names: tuple[str, ...]) -> Iterator[tuple[WorkflowCluster, list[WorkerProcess]]]:
    with EmbeddedServer() as server:
        workers = [WorkerProcess(APP, server.url, name=name, pool=pool, concurrency=2, queues=QUEUES) for name in names]
        cluster = WorkflowCluster(server.url, workers[0], workflows_app.make(server.url), [])
        try:
            for worker in workers:
                worker.__enter__()
            yield cluster, workers
        finally:
            for worker in workers:
                worker.__exit__(None, None, None)
            cluster.close()


@pytest.mark.parametrize("pool", ["solo", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_function_outlives_its_worker(pool: str) -> None:
    """Killed while it waits, and while it is executed after that."""
    with _cluster(pool, ("w1",)) as (cluster, [worker]):
        run = cluster.orchestrator.workflows.start(cluster.function("held"))
        eventually(lambda: _states(run).get("held/event-2") is StepState.SUSPENDED, describe=cluster.log)
        worker.kill()
        run.post("approved", 7)
        worker.start(wait=False)
        # In its third execution, which waits for the test.
        eventually(lambda: cluster.noted()[-1:] == ["begun held"], describe=cluster.log)
        worker.kill()
        cluster.redis.rpush("test:go:held", *"1111111")
        worker.start(wait=False)
        assert run.wait(30).state == "completed", cluster.log()
        assert run.result() == [1, 7, 16]
        assert [step.name for step in run.steps()] == ["held", "held/call-1", "held/event-2", "held/call-3"]
        assert run.status().total == 4


def _states(run: Run) -> dict[str, StepState]:
    return {step.name: step.state for step in run.steps()}


@pytest.mark.parametrize(
    "pool", ["solo", pytest.param("threads", marks=pytest.mark.slow), pytest.param("prefork", marks=pytest.mark.slow)]
)
def test_functions_complete_though_their_workers_are_killed(pool: str) -> None:
    chance = random.Random(pool)
    with _cluster(pool, ("w1", "w2")) as (cluster, workers):
        start = cluster.orchestrator.workflows.start
        chains = [start(cluster.function("chain"), 15) for _ in range(8)]
        others = [start(cluster.function("squares"), 4) for _ in range(8)]
        runs = [*chains, *others]
        for _ in range(4):
            until = sum(run.status().handled for run in runs) + chance.randint(5, 40)
            eventually(partial(_has_handled, runs, until), timeout_s=60)
            killed = chance.choice(workers)
            killed.kill()
            killed.start(wait=False)
        for run in runs:
            status = run.wait(60)
            assert (status.state, status.open, status.dead) == ("completed", 0, 0), run.explain()
        # Each call is one step, handled once.
        assert {(run.result(), run.status().total, run.status().handled) for run in chains} == {(15, 16, 16)}
        assert {(run.result()["total"], run.status().total, run.status().handled) for run in others} == {(30, 8, 8)}
        cluster.idle()
        assert all(row.accepted == row.handled for row in cluster.orchestrator.ledger() if row.queue in QUEUES)


def _has_handled(runs: list[Run], count: int) -> bool:
    return sum(run.status().handled for run in runs) >= count or all(run.status().ended for run in runs)
