"""Steps that say what they need, on real workers: spread, moved when an agent dies, and waiting for one."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator import ITEM, Dead, Workflow
from orchestrator.embedded import EmbeddedServer
from tests.apps import placement_app
from tests.apps.placement_app import Book, Lister, Page
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import WorkflowCluster

APP = "tests.apps.placement_app"


def _reader(server: EmbeddedServer, letter: str) -> WorkerProcess:
    return WorkerProcess(APP, server.url, name=f"w{letter}", queues=f"reader-{letter},monitor-manager")


def _cluster(server: EmbeddedServer, worker: WorkerProcess) -> WorkflowCluster:
    # It declares none of the readers: workers announce them.
    cluster = WorkflowCluster(server.url, worker, placement_app.make(server.url, Lister), [])
    cluster.redis.delete("test:noted")
    return cluster


def _hosted(cluster: WorkflowCluster, *letters: str) -> None:
    """Wait until these readers, and no others, are known to live."""
    keys = cluster.keys

    def lives(letter: str) -> bool:
        hosts = cluster.redis.hkeys(keys.hosts(f"reader-{letter}"))
        return any(cluster.redis.zscore(keys.leases, one) is not None for one in hosts)

    eventually(lambda: [letter for letter in "abc" if lives(letter)] == list(letters))


@pytest.mark.slow
def test_a_map_is_spread_over_workers_and_moves_when_one_is_killed(server: EmbeddedServer) -> None:
    lister = WorkerProcess(APP, server.url, name="wl", queues="lister,monitor-manager")
    with lister, _reader(server, "a") as a, _reader(server, "b"), _reader(server, "c"):
        cluster = _cluster(server, lister)
        _hosted(cluster, "a", "b", "c")
        flow = Workflow("book")
        book = flow.step("book", Book(pages=60), to="lister")
        flow.map("page", Page, over=book.result, fields={"number": ITEM}, needs={"ocr", "gpu"})
        run = cluster.orchestrator.workflows.start(flow)
        assert run.wait(30).state == "completed"
        counts = Counter(run.result("page"))
        assert sum(counts.values()) == 60
        assert max(counts.values()) - min(counts.values()) <= 6, counts

        held = Workflow("held")
        for number in range(9):
            held.step(f"page-{number}", Page(number=number, hold="x"), needs={"ocr"})
        run = cluster.orchestrator.workflows.start(held)
        eventually(lambda: len(cluster.noted()) == 60 + 3)
        [placed] = [step for step in run.steps() if step.placed == "reader-a"][:1]
        assert "placed with reader-a, which offers ocr" in "\n".join(run.explain())
        assert placed.candidates == ("reader-a", "reader-b", "reader-c")
        a.kill()
        # What it had begun waits for it; the others are moved.
        eventually(lambda: [step.placed for step in run.steps()].count("reader-a") == 1, timeout_s=20)
        for _ in range(12):
            cluster.redis.rpush("test:go:x", "1")
        a.start()
        assert run.wait(30).state == "completed"
        assert run.status().handled == 9
        cluster.idle()
        cluster.close()


def test_a_step_waits_for_an_agent_that_nobody_knows_yet(server: EmbeddedServer) -> None:
    with WorkerProcess(APP, server.url, name="wl", queues="lister,monitor-manager") as lister:
        cluster = _cluster(server, lister)
        cluster.redis.delete(cluster.keys.agents)
        _hosted(cluster)
        flow = Workflow("one", on_failure="continue")
        flow.step("page", Page(number=1), needs={"gpu"}, place_within_s=60)
        flow.step("never", Page(number=2), needs={"tpu"}, place_within_s=2)
        run = cluster.orchestrator.workflows.start(flow)
        no_agent = (
            "unplaced: no living agent offers tpu: no agent is known that does; it fails 2 s after it could begin"
        )
        assert run.explain()[2] == f"never: {no_agent}"
        eventually(lambda: run.status().dead == 1)
        assert run.outcome("never") == Dead("unplaced", "no living agent offers tpu", 0)
        assert run.steps()[0].state == "unplaced"
        with _reader(server, "b"):
            assert run.wait(30).state == "failed"
            assert run.result("page") == "reader-b"
        cluster.idle()
        cluster.close()
