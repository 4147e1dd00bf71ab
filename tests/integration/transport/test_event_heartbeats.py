"""Celery's events ``worker-online`` and ``worker-heartbeat`` while Redis is away: no worker waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# By this module the transport knows a worker's process.
import celery.worker.control  # noqa: F401
import pytest
from celery import Celery
from celery.worker.heartbeat import Heart
from kombu.asynchronous.timer import Timer

from orchestrator.embedded import EmbeddedServer
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.outages import killed, suspended
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"
POOLS = ["solo", "prefork", "threads"]


@pytest.fixture
def broker(own_redis_server: EmbeddedServer) -> Iterator[BareBroker]:
    broker = BareBroker(own_redis_server.url)
    yield broker
    broker.close()


@pytest.mark.parametrize("event", ["worker-online", "worker-heartbeat"])
def test_an_event_that_cannot_be_sent_is_not_waited_for(own_redis_server: EmbeddedServer, event: str) -> None:
    """Regression: kombu tried for ever, in the event loop's thread, and logged nothing."""
    app = Celery("sender", broker=own_redis_server.url, set_as_current=False)
    app.conf.broker_transport = "orchestrator.transport:Transport"
    with app.connection_for_write() as connection, app.events.Dispatcher(connection) as dispatcher:
        heart = Heart(Timer(), dispatcher)
        heart._send(event)
        assert not dispatcher._outbound_buffer
        # What still tries then ends once Redis is back.
        with ThreadPoolExecutor(1) as sending, killed(own_redis_server):
            dispatcher.send("mine-begun")
            for _ in range(2):
                sending.submit(heart._send, event).result(timeout=10)
        # It would be kept until a reconnect, which may never come, and say what is not so any more.
        assert [routing_key for _, routing_key, *_ in dispatcher._outbound_buffer] == ["mine.begun"]
        heart._send(event)
    app.close()


class OwnDispatcher:
    """A dispatcher of a user, with what Celery's heart needs of one; it keeps nothing."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.on_enabled: set[Any] = set()
        self.on_disabled: set[Any] = set()
        self.retries: list[bool] = []

    def send(self, _event: str, *, retry: bool, **_fields: Any) -> None:
        self.retries.append(retry)


def test_over_another_transport_celery_goes_on_as_it_does() -> None:
    with Celery("other", broker="memory://", set_as_current=False).connection_for_write() as connection:
        dispatcher = OwnDispatcher(connection)
        Heart(Timer(), dispatcher)._send("worker-heartbeat")
        assert dispatcher.retries == [True]


def test_a_dispatcher_that_keeps_nothing_is_as_good(redis_url: str) -> None:
    """Regression: its first event raised an AttributeError in the worker's event loop."""
    app = Celery("sender", broker=redis_url, set_as_current=False)
    app.conf.broker_transport = "orchestrator.transport:Transport"
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        dispatcher = OwnDispatcher(connection)
        heart = Heart(Timer(), dispatcher)
        heart._send("worker-online")
        del dispatcher.connection
        heart._send("worker-heartbeat")
        assert dispatcher.retries == [False, True]
    app.close()


def last_heartbeat_s(broker: BareBroker) -> float:
    seconds, micros = broker.redis.time()
    ((_, beat_ms),) = broker.redis.zrange(broker.store.keys.leases, 0, 0, withscores=True)
    return float(seconds + micros / 1e6 - beat_ms / 1000)


def suspend_and_kill(w: WorkerProcess, server: EmbeddedServer, broker: BareBroker) -> None:
    """Have a heartbeat be overdue, and Redis gone, when the worker goes on."""
    with suspended(w):
        eventually(lambda: last_heartbeat_s(broker) > 3, describe=w.log)
        server.kill()


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_was_suspended_when_redis_was_killed_connects_again(
    own_redis_server: EmbeddedServer, broker: BareBroker, pool: str
) -> None:
    """When it goes on, the heartbeat that is overdue comes before anything that shows that the connection is lost."""
    with WorkerProcess(APP, own_redis_server.url, pool=pool) as w:
        broker.send("note", "before")
        eventually(lambda: broker.done() == {"before": 1}, describe=w.log)
        suspend_and_kill(w, own_redis_server, broker)
        eventually(lambda: "Trying again in 2.00 seconds... (1/" in w.log(), timeout_s=20, describe=w.log)
        own_redis_server.restart()
        broker.send("note", "after")
        eventually(lambda: broker.done() == {"after": 1}, timeout_s=20, describe=w.log)


def test_a_worker_that_was_suspended_when_redis_was_killed_can_be_stopped(
    own_redis_server: EmbeddedServer, broker: BareBroker
) -> None:
    with WorkerProcess(APP, own_redis_server.url) as w:
        broker.send("note", "before")
        eventually(lambda: broker.done() == {"before": 1}, describe=w.log)
        suspend_and_kill(w, own_redis_server, broker)
        eventually(lambda: "not sent: Redis is unreachable" in w.log(), describe=w.log)
        assert w.stop() == 0, w.log()
