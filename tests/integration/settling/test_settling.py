"""How a message ends where a task, or Celery's result backend, has a word in it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import celery
import pytest

from orchestrator.core.deliveries.supervision import HEADER
from tests.apps import settling_app
from tests.support.celery_events import await_subscription
from tests.support.eventually import eventually
from tests.support.settling_cluster import WITHOUT_ORCHESTRATOR, SettlingCluster, settling

WAIT_S = 30


def body_of(raw: str) -> str:
    """The body of a message, which has the id in protocol 1."""
    return base64.b64decode(json.loads(raw)["body"]).decode()


def letter_of(cluster: SettlingCluster, delivery: str) -> dict[str, Any]:
    """The letter that a message becomes."""

    def found() -> list[dict[str, Any]]:
        rows = cluster.broker.letters()
        return [json.loads(row["letter"]) for row in rows if delivery in row["m"] or delivery in body_of(row["m"])]

    (letter,) = eventually(found, WAIT_S, cluster.worker.log)
    return letter


def send(cluster: SettlingCluster, task: str) -> str:
    return str(cluster.app.tasks[task].apply_async().id)


def runs(cluster: SettlingCluster, task: str) -> int:
    return [str(name) for name in cluster.redis.lrange("test:ran", 0, -1)].count(task)


@pytest.fixture(
    scope="module",
    params=[(pool, bare) for pool in ("prefork", "solo", "threads") for bare in WITHOUT_ORCHESTRATOR],
    ids=lambda param: f"{param[0]}-{'transport' if param[1] else 'orchestrator'}",
)
def cluster(request: pytest.FixtureRequest) -> Iterator[SettlingCluster]:
    pool, bare = request.param
    with settling(pool, bare, arguments=("-E",)) as cluster:
        yield cluster


def test_a_message_that_its_task_rejects_sends_celerys_event(cluster: SettlingCluster) -> None:
    for task in ("plain.rejects", "plain.fails"):
        seen = events_of(cluster, task)
        assert ("task-rejected", False) in seen, seen
        assert runs(cluster, task) == 1
        cluster.redis.delete("test:ran")


@pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery stores no failure of a message that its task rejects")
def test_an_error_while_a_message_is_settled_is_logged_and_the_message_ends(cluster: SettlingCluster) -> None:
    letter_of(cluster, send(cluster, "plain.rejects_stored"))
    eventually(lambda: cluster.broker.ledger("celery").pending == 0, WAIT_S, cluster.worker.log)
    eventually(lambda: "settling plain.rejects_stored[" in cluster.worker.log(), WAIT_S, cluster.worker.log)
    assert "no FAILURE can be stored" in cluster.worker.log()


def test_an_error_after_a_time_limit_is_logged_and_the_message_ends(cluster: SettlingCluster) -> None:
    if cluster.pool != "prefork":
        pytest.skip("only prefork has hard time limits")
    delivery = send(cluster, "plain.lasts")
    eventually(lambda: runs(cluster, "plain.lasts") == 1, WAIT_S, cluster.worker.log)
    if not cluster.bare:
        # With the transport alone, Celery has acknowledged the failure by then.
        letter_of(cluster, delivery)
    eventually(lambda: cluster.broker.ledger("celery").pending == 0, WAIT_S, cluster.worker.log)
    eventually(lambda: "settling plain.lasts[" in cluster.worker.log(), WAIT_S, cluster.worker.log)


def test_a_task_that_is_not_acknowledged_on_a_timeout_runs_again_but_not_without_end(cluster: SettlingCluster) -> None:
    if cluster.pool != "prefork" or cluster.bare:
        pytest.skip("only prefork has hard time limits; the transport alone leaves this to Celery")
    letter = letter_of(cluster, send(cluster, "plain.lasts_again"))
    assert letter["reason"] == "poison"
    assert runs(cluster, "plain.lasts_again") == 3


def test_a_message_of_protocol_1_ends_like_any_other(cluster: SettlingCluster) -> None:
    old = settling_app.make(cluster.broker.url, bare=True)
    old.conf.task_protocol = 1
    before = cluster.broker.ledger("celery").dead
    for task in ("plain.seen", "plain.rejects"):
        old.send_task(task, args=("old",) if task == "plain.seen" else (), queue="celery")
    eventually(lambda: cluster.redis.llen("test:seen:old") == 1, WAIT_S, cluster.worker.log)
    eventually(lambda: cluster.broker.ledger("celery").pending == 0, WAIT_S, cluster.worker.log)
    assert cluster.broker.ledger("celery").dead == before + 1
    if not cluster.bare:
        delivery = old.send_task("plain.seen", args=("supervised",), queue="celery", headers={HEADER: {}}).id
        letter = letter_of(cluster, delivery)
        assert (letter["reason"], letter["error"]["type"]) == ("not supervised", "NotSupervised")
        assert "task_protocol=2" in letter["error"]["message"]
    old.close()


def events_of(cluster: SettlingCluster, task: str) -> list[tuple[str, Any]]:
    """Send it, and return its events until it is rejected, with what they say of requeueing."""
    seen: list[tuple[str, Any, Any]] = []
    done, ready = threading.Event(), threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        seen.append((event["type"], event.get("requeue"), event.get("uuid")))
        if event["type"] == "task-rejected":
            done.set()

    with cluster.app.connection_for_read() as connection:
        receiver = cluster.app.events.Receiver(connection, handlers={"*": on_event})

        def listen() -> None:
            consumer = receiver.itercapture(limit=None, timeout=None, wakeup=False)
            next(consumer)
            ready.set()
            for _ in consumer:
                if done.is_set():
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        assert ready.wait(WAIT_S)
        await_subscription(cluster.app, lambda: {kind for kind, *_ in tuple(seen)})
        delivery = send(cluster, task)
        ended = done.wait(WAIT_S)
        done.set()
        thread.join(WAIT_S)
        assert ended, f"{seen}\n{cluster.worker.log()}"
    return [(kind, requeue) for kind, requeue, uuid in seen if uuid == delivery]
