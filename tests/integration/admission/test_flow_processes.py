"""Flow control and fencing across processes that stop, are killed, or know nothing of each other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Handled
from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.errors import CircuitOpen
from tests.apps import flow_app as app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.sender_process import SenderProcess, message
from tests.support.worker_process import WorkerProcess

WAIT_S = 30
APP = "tests.apps.flow_app"


@pytest.fixture
def cluster(redis_url: str) -> Iterator[Cluster]:
    """A Redis and a sender in this process; each test starts the workers it needs."""
    cluster = Cluster(redis_url, None, app.make(redis_url))
    yield cluster
    cluster.close()


def count(cluster: Cluster, key: str) -> int:
    found: Any = cluster.redis.get(key)
    return int(found or 0)


# -- a worker that is stopped in the middle


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_the_late_outcome_of_a_stopped_worker_is_refused_and_its_fence_is_the_lower_one(
    cluster: Cluster, pool: str
) -> None:
    options: dict[str, Any] = {"queues": "eu", "pool": pool}
    with WorkerProcess(APP, cluster.url, name="sleeper", **options) as sleeper:
        delivery = cluster.orchestrator.send("eu", app.Hold(name="fenced"))
        eventually(lambda: count(cluster, "test:began:fenced") == 1, WAIT_S, sleeper.log)
        with WorkerProcess(APP, cluster.url, name="waker", **options) as waker:
            os.killpg(sleeper.pid, signal.SIGSTOP)
            # As at the end of its lease, for which nobody needs to wait here.
            sweeper = cluster.orchestrator.runtime.store.sweeper()
            assert sweeper.prove_death(sleeper.incarnation, DeathReason.LOST, by="test")
            eventually(lambda: count(cluster, "test:began:fenced") == 2, WAIT_S, waker.log)
            # The first to have waited is the first to be let go, and is stopped.
            cluster.redis.rpush("test:go:fenced", "sleeper", "waker")
            outcome = delivery.wait(timeout_s=WAIT_S)
            assert isinstance(outcome, Handled)
            assert outcome.result > 0
            before = cluster.row("eu")
            assert (before.handled, before.pending) == (1, 0)
            os.killpg(sleeper.pid, signal.SIGCONT)
            eventually(lambda: cluster.redis.llen("test:fences:fenced") == 2, WAIT_S, sleeper.log)
            eventually(lambda: cluster.row("eu").duplicated == 1, WAIT_S, sleeper.log)
            fences: Any = cluster.redis.lrange("test:fences:fenced", 0, -1)
            winners, late = (int(fence) for fence in fences)
            assert winners == outcome.result
            assert late < winners
            assert delivery.outcome() == outcome
            after = cluster.row("eu")
            assert (after.accepted, after.handled, after.dead, after.balanced) == (1, 1, 0, True)
            assert cluster.orchestrator.dead_letters.count() == 0


# -- a sender that is killed


def test_a_compensation_is_sent_though_the_sender_was_killed_before_a_copy_died(cluster: Cluster) -> None:
    with (
        WorkerProcess(APP, cluster.url, name="eu", queues="eu") as eu,
        WorkerProcess(APP, cluster.url, name="us", queues="us") as us,
        SenderProcess(cluster.url) as sender,
    ):
        # Its copy waits until this is over.
        cluster.orchestrator.send("us", app.Hold(name="busy"))
        eventually(lambda: count(cluster, "test:began:busy") == 1, WAIT_S, us.log)
        sent = sender.do(
            "broadcast",
            ["eu", "us"],
            message("Reprice", fails_at="us"),
            strategy="all_or_nothing",
            compensate=message("Undo"),
        )
        assert "id" in sent
        eventually(lambda: cluster.row("eu").handled == 1, WAIT_S, eu.log)
        sender.kill()
        assert (cluster.row("eu").accepted, cluster.row("us").dead) == (1, 0)
        cluster.redis.rpush("test:go:busy", "go")
        eventually(lambda: cluster.row("us").dead == 1, WAIT_S, us.log)
        eventually(lambda: cluster.row("eu").handled == 2, WAIT_S, eu.log)
        assert "eu.Undo" in eu.log()
        assert cluster.row("us").accepted == 2, "who failed has nothing to undo"
        assert all(row.balanced for row in cluster.idle())


# -- two senders, one breaker


def test_two_processes_share_one_breaker_and_its_one_probe(cluster: Cluster) -> None:
    flow = cluster.orchestrator.runtime.store.keys.flow("long-fused")
    with (
        WorkerProcess(APP, cluster.url, queues="long-fused") as worker,
        SenderProcess(cluster.url) as one,
        SenderProcess(cluster.url) as two,
    ):
        senders = (one, two)
        assert "id" in two.do("send", "long-fused", message("Work"))
        for _ in range(2):
            assert "id" in one.do("send", "long-fused", message("Work", fails=True))
        eventually(lambda: cluster.redis.hget(flow, "phase") == b"open", WAIT_S, worker.log)
        assert [sender.do("send", "long-fused", message("Work")) for sender in senders] == 2 * [
            {"error": "CircuitOpen"}
        ]
        # Its ten minutes have passed.
        cluster.redis.hset(flow, "until_ms", 1)
        for sender in senders:
            sender.begin("send", "long-fused", message("Hold", name="probe"))
        answers = [sender.answer() for sender in senders]
        assert sorted(next(iter(answer)) for answer in answers) == ["error", "id"], answers
        assert {"error": "CircuitOpen"} in answers
        eventually(lambda: count(cluster, "test:began:probe") == 1, WAIT_S, worker.log)
        with pytest.raises(CircuitOpen):
            cluster.orchestrator.send("long-fused", app.Work())
        cluster.redis.rpush("test:go:probe", "go")
        eventually(lambda: cluster.redis.hget(flow, "phase") == b"closed", WAIT_S, worker.log)
        assert all("id" in sender.do("send", "long-fused", message("Work")) for sender in senders)
        cluster.idle()
        row = cluster.row("long-fused")
        assert (row.accepted, row.handled, row.dead) == (6, 4, 2)


# -- deferred messages


def test_deferred_messages_outlive_their_worker_and_are_let_go_in_their_order(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    keys = orchestrator.runtime.store.keys
    with WorkerProcess(APP, cluster.url, queues="long-fused") as worker:
        for _ in range(2):
            orchestrator.send("long-fused", app.Work(fails=True))
        eventually(lambda: orchestrator.breakers.state("long-fused").phase == "open", WAIT_S, worker.log)
        names = [f"deferred-{number}" for number in range(5)]
        deliveries = [orchestrator.send("long-fused", app.Hold(name=name), when_open="queue") for name in names]
        for name in names:
            cluster.redis.rpush(f"test:go:{name}", "go")
        worker.kill()
    assert cluster.redis.xlen(keys.deferred("long-fused")) == 5
    # Its ten minutes have passed.
    cluster.redis.hset(keys.flow("long-fused"), "until_ms", 1)
    cluster.redis.zadd(keys.timers, {"deferred:long-fused": 1})
    with WorkerProcess(APP, cluster.url, queues="long-fused") as worker:
        outcomes = [delivery.wait(WAIT_S) for delivery in deliveries]
        tokens = [outcome.result for outcome in outcomes if isinstance(outcome, Handled)]
        assert len(tokens) == 5, worker.log()
        assert tokens == sorted(tokens)
        cluster.idle()
    assert orchestrator.breakers.state("long-fused").phase == "closed"
    assert not cluster.redis.exists(keys.deferred("long-fused"))
    row = cluster.row("long-fused")
    assert (row.accepted, row.handled, row.dead, row.balanced) == (7, 5, 2, True)
