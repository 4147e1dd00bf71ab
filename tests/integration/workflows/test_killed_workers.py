"""Runs whose workers, or whose Redis, are killed: they complete, with the right results."""

from __future__ import annotations

import random
from functools import partial

import pytest

from orchestrator import Retry
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.definition import Workflow
from orchestrator.workflows.references import ITEM, Results
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.apps.workflows_app import List, Split, Square, Sum
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES, WorkflowCluster

ITEMS = 300


def _fan(items: int) -> Workflow:
    """A fan-out over a list with its fan-in, a chord of ten, and a chain of ten."""
    flow = Workflow("fan")
    numbers = flow.step("list", List(count=items), to="counter")
    squares = flow.map("square", Square, over=numbers.result["numbers"], fields={"number": ITEM}, to="counter")
    flow.step("sum", Sum, fields={"numbers": squares.result}, to="counter")
    parts = [flow.step(f"part-{n}", Square(number=n), to="counter") for n in range(10)]
    flow.step("split", Split(numbers=[1, 2, 3], how="nested"), to="counter")
    flow.step("chord", Sum, fields={"numbers": Results(tuple(part.name for part in parts))}, to="counter")
    add = workflows_app.app.tasks["plain.add"]
    last = flow.step("chain-0", add.s(1))
    for n in range(1, 10):
        last = flow.step(f"chain-{n}", add.s(last.result, 1))
    return flow


def _handled(run: Run) -> int:
    return run.status().handled


# 13 has no square.
TOTAL = sum(n * n for n in range(13))


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_completes_though_its_workers_are_killed(pool: str, seed: int) -> None:
    chance = random.Random(seed)
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="w1", pool=pool, concurrency=2, queues=QUEUES) as first,
        WorkerProcess(APP, server.url, name="w2", pool=pool, concurrency=2, queues=QUEUES) as second,
    ):
        cluster = WorkflowCluster(server.url, first, workflows_app.make(server.url), [])
        runs = [cluster.orchestrator.workflows.start(_fan(13)) for _ in range(20)]
        for _ in range(4):
            until = sum(map(_handled, runs)) + chance.randint(5, 120)
            eventually(partial(_has_handled, runs, until), timeout_s=60)
            killed = chance.choice([first, second])
            killed.kill()
            killed.start(wait=False)
        for run in runs:
            status = run.wait(90)
            assert (status.state, status.open, status.dead) == ("completed", 0, 0), run.explain()
            assert (run.result("sum"), run.result("chord"), run.result("chain-9")) == (TOTAL, 285, 10)
            assert run.result("split") == [1, [4, [9]]]
            # The items of the map, the map itself and the other steps, and those that are split off with their joins.
            assert status.handled == 13 + 24 + 9
        cluster.idle()
        assert all(row.accepted == row.handled for row in cluster.orchestrator.ledger() if row.queue in QUEUES)
        cluster.close()


def _has_handled(runs: list[Run], count: int) -> bool:
    """Whether so many messages were handled, or all runs have ended."""
    return sum(map(_handled, runs)) >= count or all(run.status().ended for run in runs)


def test_a_sweep_goes_on_with_what_a_killed_worker_has_planned() -> None:
    flow = Workflow("wide")
    first = flow.step("first", workflows_app.app.tasks["plain.add"].s(1))
    for n in range(1000):
        flow.step(f"square-{n}", Square(number=2), to="counter", after=first)
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="w1", queues="celery") as worker,
        WorkerProcess(APP, server.url, name="w2", queues="monitor-manager"),
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        run = cluster.orchestrator.workflows.start(flow)
        eventually(lambda: run.status().handled == 1)
        worker.kill()
        eventually(lambda: run.status().open == 1000)
        assert cluster.row("counter").pending == 1000
        cluster.close()


def test_a_run_outlasts_a_killed_redis() -> None:
    config = {"appendonly": "yes", "appendfsync": "always"}
    with (
        EmbeddedServer(config=config) as server,
        WorkerProcess(APP, server.url, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        flow = Workflow("long")
        add, last = cluster.task("add"), None
        for n in range(300):
            last = flow.step(f"s{n}", add if last is None else workflows_app.app.tasks["plain.add"].s(last.result, 1))
        run = cluster.orchestrator.workflows.start(flow)
        for handled in (50, 150):
            eventually(partial(_has_handled, [run], handled), timeout_s=30)
            server.kill()
            server.restart()
        assert run.wait(60).state == "completed"
        assert run.result("s299") == 299
        cluster.close()


def test_a_step_whose_worker_is_killed_runs_elsewhere() -> None:
    """Its dependents begin once, after its second attempt."""
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="w1", queues=QUEUES) as first,
    ):
        cluster = WorkflowCluster(server.url, first, workflows_app.make(server.url), [])
        flow = Workflow("held")
        held = flow.step("held", cluster.task("hold", "a"), retry=Retry(max_retries=0))
        flow.step("note", cluster.task("note", "after"), after=held)
        run = cluster.orchestrator.workflows.start(flow)
        eventually(lambda: cluster.noted() == ["begun a"])
        first.kill()
        cluster.redis.rpush("test:go:a", "1", "1")
        first.start()
        assert run.wait(30).state == "completed"
        assert cluster.noted() == ["begun a", "begun a", "after"]
        cluster.close()


def test_a_paused_run_outlasts_a_killed_redis_and_a_killed_worker() -> None:
    """No step is tried again by its policy: an attempt that had no Redis to begin with is not one that has failed."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    with (
        EmbeddedServer(config=config) as server,
        WorkerProcess(APP, server.url, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        flow = Workflow("paused")
        numbers = flow.step("list", List(count=13), to="counter")
        over = numbers.result["numbers"]
        squares = flow.map("square", Square, over=over, fields={"number": ITEM}, to="counter", limit=3)
        flow.step("sum", Sum, fields={"numbers": squares.result}, to="counter")
        runs = [cluster.orchestrator.workflows.start(flow) for _ in range(10)]
        eventually(partial(_has_handled, runs, 30), timeout_s=30)
        for run in runs:
            run.pause()
        server.kill()
        server.restart()
        eventually(lambda: all(run.status().open == 0 for run in runs if not run.status().ended), timeout_s=30)
        handled = sum(map(_handled, runs))
        worker.kill()
        worker.start()
        assert sum(map(_handled, runs)) == handled
        for run in runs:
            run.resume()
        for run in runs:
            assert run.wait(60).state == "completed", run.explain()
            assert run.result("sum") == TOTAL
        cluster.idle()
        assert all(row.accepted == row.handled + row.cancelled for row in cluster.orchestrator.ledger())
        cluster.close()


def test_a_compensation_whose_worker_is_killed_runs_again_and_the_next_one_after_it() -> None:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, queues=QUEUES) as worker,
    ):
        cluster = WorkflowCluster(server.url, worker, workflows_app.make(server.url), [])
        flow = Workflow("saga")
        first = flow.step("first", cluster.task("add", 1), undo=cluster.task("note", "undo first"))
        second = flow.step("second", cluster.task("add", 2), undo=cluster.task("hold", "second"), after=first)
        flow.wait("event", event="never", after=second)
        run = cluster.orchestrator.workflows.start(flow)
        eventually(lambda: run.status().handled == 2)
        run.cancel(compensate=True)
        eventually(lambda: cluster.noted() == ["begun second"])
        worker.kill()
        cluster.redis.rpush("test:go:second", "1", "1")
        assert run.retry("first") == "not failed"
        worker.start()
        assert run.wait(30).state == "compensated"
        assert cluster.noted() == ["begun second", "begun second", "undo first"]
        cluster.close()
