"""When a connection breaks or the server refuses within a publish, the sender learns that the broker is unavailable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from orchestrator import Agent, Message, Orchestrator, Reply, handles, replies
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from tests.support.bare_broker import BareBroker, kombu_connection
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


class Note(Message):
    text: str = ""


class Clerk(Agent):
    name = "clerk"

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""

    @replies(Note)
    def replied(self, reply: Reply) -> None:
        """Never run here."""


def _plain() -> None:
    """Never run here."""


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[Any]:
    with Redis.from_url(server.url) as client:
        yield client


def make(url: str, **settings: Any) -> Orchestrator:
    app = Celery("senders", broker=url, set_as_current=False)
    app.conf.update(settings)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    app.task(_plain, shared=False, name="plain", ignore_result=True)
    return orchestrator


PUBLISHES: dict[str, Callable[[Orchestrator], Any]] = {
    "send": lambda o: o.send("clerk", Note()),
    "send later": lambda o: o.send("clerk", Note(), countdown_s=60),
    "send once": lambda o: o.send("clerk", Note(), idempotency_key="k"),
    "send a task": lambda o: o.send(o.app.tasks["plain"]),
    "send many": lambda o: o.send_many("clerk", [Note()] * 3),
    "ask many": lambda o: o.runtime.asker.ask_many("clerk", "clerk", [Note()] * 3, 5, None),
    "broadcast": lambda o: o.broadcast(["clerk"], Note()),
    "apply_async": lambda o: o.app.tasks["plain"].apply_async(),
}


@pytest.mark.parametrize("sent_events", [False, True])
def test_the_first_publish_of_a_process_while_the_server_refuses_says_so(
    server: EmbeddedServer, admin: Any, sent_events: bool
) -> None:
    """Regression: a first send raised AttributeError, always."""
    admin.config_set("min-replicas-to-write", 1)
    for name, publish in PUBLISHES.items():
        orchestrator = make(server.url, task_send_sent_event=sent_events)
        for _ in range(2):
            with pytest.raises(OperationalError if name == "apply_async" else BrokerUnavailable, match="NOREPLICAS"):
                publish(orchestrator)
        orchestrator.app.close()


@pytest.mark.parametrize("sent_events", [False, True])
def test_threads_whose_connections_break_are_told_of_the_broker(
    server: EmbeddedServer, admin: Any, sent_events: bool
) -> None:
    orchestrator = make(server.url, task_send_sent_event=sent_events)
    orchestrator.app.finalize()
    stop, accepted = threading.Event(), threading.Event()
    ends: Counter[str] = Counter()

    def keep_publishing(first: int) -> None:
        publishes = list(PUBLISHES.values())
        for number in range(30):
            try:
                publishes[(first + number) % len(publishes)](orchestrator)
                ends["accepted"] += 1
                accepted.set()
            except (BrokerUnavailable, OperationalError):
                ends["told"] += 1
            except Exception as error:  # noqa: BLE001
                ends[repr(error)] += 1

    def break_connections() -> None:
        with Redis.from_url(server.url) as client:
            while not stop.is_set():
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                accepted.clear()
                # On a busy machine, connections that are always killed at once never get anything through.
                while not stop.is_set() and not accepted.wait(0.02):
                    pass

    threads = [threading.Thread(target=keep_publishing, args=(first,)) for first in range(8)]
    breaker = threading.Thread(target=break_connections)
    for thread in (*threads, breaker):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    breaker.join()
    assert set(ends) <= {"accepted", "told"}, ends
    assert ends["accepted"] > 0
    orchestrator.app.close()


def test_a_batch_whose_connection_was_closed_meanwhile_says_that_it_failed(server: EmbeddedServer) -> None:
    """Regression: it let go of a lock that another connection had never taken, a RuntimeError."""

    def publish(producer: Any) -> None:
        with open_batch(producer) as batch:
            batch.producer.publish({}, routing_key="plain")
            batch.state.session.send()
            batch.state.session.channel._disconnect_pools()
            batch.flush()

    with (
        kombu_connection(server.url) as connection,
        connection.Producer() as producer,
        pytest.raises(BatchPublishError),
    ):
        publish(producer)


def test_a_broadcast_goes_out_where_celery_tells_of_each_send(server: EmbeddedServer, admin: Any) -> None:
    """Regression: with `task_send_sent_event` every broadcast was refused."""
    orchestrator = make(server.url, task_send_sent_event=True)
    report = orchestrator.broadcast(["clerk"], Note())
    assert [receipt.refusal for receipt in report.receipts] == ["down"]
    orchestrator.app.close()


@pytest.mark.parametrize(("pool", "supervised"), [("solo", ""), ("solo", "1"), ("prefork", "1"), ("threads", "1")])
def test_a_retry_that_cannot_be_published_leaves_the_message_where_it_is(
    server: EmbeddedServer, admin: Any, redis_url: str, pool: str, supervised: str
) -> None:
    """Regression: with an Orchestrator it became a dead letter; with the transport alone it was gone."""
    seen = BareBroker(redis_url)
    environment = {"RETRYING_RECORD_URL": seen.url, "RETRYING_SUPERVISED": supervised}
    with WorkerProcess("tests.apps.retrying_app", server.url, pool=pool, environment=environment) as worker:
        broker = BareBroker(server.url)
        broker.app.send_task("retrying")
        eventually(lambda: seen.redis.llen("test:attempts") == 1, describe=worker.log)
        admin.config_set("min-replicas-to-write", 1)
        seen.redis.rpush("test:go", "1")
        eventually(lambda: "broker lost" in worker.log() or "reject" in worker.log().lower(), 20, worker.log)
        seen.redis.rpush("test:go", "1")
        admin.config_set("min-replicas-to-write", 0)
        eventually(lambda: "1" in seen.redis.lrange("test:attempts", 0, -1), 20, worker.log)
        eventually(lambda: broker.ledger().pending == 0, 20, worker.log)
        assert (broker.ledger().dead, broker.ledger().lost) == (0, 0)
        assert not admin.exists(broker.store.keys.dead_letters)
        broker.close()
    seen.close()
