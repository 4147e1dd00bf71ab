"""A delivery that is cancelled while a worker has it is not tried again, whoever would be next to take it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import Cancelled, CancelResult, Constant, Handled, Retry, Status
from orchestrator.core.keys import GROUP
from orchestrator.sending.delivery import Delivery
from orchestrator.transport.redis import commands
from tests.apps import agents_app as app
from tests.support.agents_cluster import APP, QUEUES, agents_on
from tests.support.bare_broker import BareBroker
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 20

#: The other worker has time enough to take the next attempt before the first one reads what it is told.
PATIENT = Retry(max_retries=5, backoff=Constant(0.2))


@pytest.fixture
def workers(redis_url: str) -> Iterator[list[WorkerProcess]]:
    with (
        WorkerProcess(APP, redis_url, queues=QUEUES) as one,
        WorkerProcess(APP, redis_url, name="w2", queues=QUEUES) as two,
    ):
        yield [one, two]


@pytest.fixture
def cluster(redis_url: str, workers: list[WorkerProcess]) -> Iterator[Cluster]:
    cluster = agents_on(redis_url, workers[0])
    yield cluster
    cluster.close()


def running(cluster: Cluster, delivery: Delivery) -> str:
    """Waits until it runs; returns its holder."""
    eventually(lambda: delivery.status() is Status.RUNNING, WAIT_S, cluster.log)
    found = cluster.orchestrator.runtime.modes.backend().tracker.find("worker", delivery.id)
    assert found is not None
    return found.holder


def executions(workers: list[WorkerProcess], delivery: Delivery) -> int:
    return sum(worker.log().count(f"[{delivery.id}] received") for worker in workers)


def no_mark_is_left(cluster: Cluster) -> bool:
    return not cluster.redis.exists(cluster.keys.cancelling) and not list(cluster.redis.scan_iter("*hooks:*"))


def test_a_failing_attempt_that_was_cancelled_is_the_last_one_on_any_worker(
    cluster: Cluster, workers: list[WorkerProcess]
) -> None:
    for round_ in range(4):
        name = f"round {round_}"
        delivery = cluster.orchestrator.send("worker", app.HoldAndFail(name=name), retry=PATIENT)
        running(cluster, delivery)
        assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
        cluster.redis.rpush(f"test:go:{name}", *"123456")
        assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)
        attempts = [(a.number, a.how) for a in delivery.history()]
        assert attempts in ([(1, f"ValueError: {name}")], [(1, "cancelled")])
        cluster.idle()
        assert executions(workers, delivery) == 1
        assert no_mark_is_left(cluster)
    assert all(row.balanced for row in cluster.idle())
    assert (cluster.row().cancelled, cluster.row().retried) == (4, 0)


def test_what_was_cancelled_and_whose_worker_dies_is_not_requeued(
    cluster: Cluster, workers: list[WorkerProcess]
) -> None:
    delivery = cluster.orchestrator.send("worker", app.Hold(name="dies"), retry=PATIENT)
    beside = cluster.orchestrator.send("worker", app.Hold(name="beside"), retry=PATIENT)
    holder = running(cluster, delivery)
    running(cluster, beside)
    assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
    (dies,) = [worker for worker in workers if holder.startswith(f"{worker.name}@")]
    dies.kill()
    assert delivery.wait(timeout_s=WAIT_S) == Cancelled(by="sender")
    assert [a.how for a in delivery.history()] == ["its worker died: killed"]
    cluster.redis.rpush("test:go:beside", "1", "2")
    assert isinstance(beside.wait(timeout_s=WAIT_S), Handled)
    assert executions(workers, delivery) == 1
    assert no_mark_is_left(cluster)
    assert all(row.balanced for row in cluster.idle())


def test_what_is_handled_although_it_was_cancelled_leaves_no_mark(cluster: Cluster) -> None:
    delivery = cluster.orchestrator.send("worker", app.Hold(name="handled"), idempotency_key="k")
    running(cluster, delivery)
    assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
    cluster.redis.rpush("test:go:handled", "1")
    assert delivery.wait(timeout_s=WAIT_S) == Handled("handled", 1)
    assert not cluster.redis.exists(cluster.keys.cancelling)
    assert cluster.orchestrator.send("worker", app.Hold(name="handled"), idempotency_key="k").id == delivery.id


def test_what_was_cancelled_ends_though_its_error_is_no_text(redis_url: str) -> None:
    """Regression: Redis could not read the next attempt, and had let go of the message by then."""
    broker = BareBroker(redis_url)
    k, store = broker.store.keys, broker.store
    stream, outcome = k.stream("box", "0"), k.outcome("d")
    store.run(*commands.publish(stream, k.ledger("box"), ["{}"]))
    broker.redis.sadd(k.queues, "box")
    broker.redis.xgroup_create(stream, GROUP, id="0")
    ((_, ((entry, _),)),) = broker.redis.xreadgroup(GROUP, "w", {stream: ">"})
    broker.redis.hset(k.outcome_hooks("d"), mapping={"cancel": '{"outcome":"cancelled"}', "cancelling": k.cancelling})
    broker.redis.sadd(k.cancelling, outcome)
    next_attempt = '{"headers": {"id": "\\ud800"}}'
    call = commands.retry(k, "box", stream, entry, "0|x", next_attempt, 1000, ttl_ms=1000, delivery="d")
    assert store.run(*call) == 1
    assert broker.redis.lrange(outcome, 0, -1) == ['{"outcome":"cancelled"}']
    assert (broker.ledger("box").cancelled, broker.ledger("box").pending) == (1, 0)
    assert not broker.redis.exists(k.cancelling, k.outcome_hooks("d"))
    broker.close()
