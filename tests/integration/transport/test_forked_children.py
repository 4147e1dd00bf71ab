"""A child that outlives its worker holds none of the worker's connections open."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually


@pytest.fixture
def broker(own_redis_server: EmbeddedServer) -> Iterator[BareBroker]:
    """On a server of its own: threads of earlier tests may connect to the shared one."""
    broker = BareBroker(own_redis_server.url)
    yield broker
    broker.close()


def connections(broker: BareBroker) -> set[str]:
    """Ids of the connections that Redis has."""
    return {client["id"] for client in broker.redis.client_list()}


@pytest.fixture
def children(broker: BareBroker) -> Iterator[None]:
    yield
    for pid in broker.redis.lrange("test:child", 0, -1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.usefixtures("children")
@pytest.mark.parametrize(
    ("pool", "how"),
    [
        *(("solo", how) for how in ("fork", "multiprocessing", "subprocess")),
        *(("threads", how) for how in ("fork", "multiprocessing", "subprocess")),
        # Pool processes are daemons, to which multiprocessing allows no children.
        ("prefork", "fork"),
        ("prefork", "subprocess"),
    ],
)
def test_a_child_that_outlives_its_worker_holds_no_connection(broker: BareBroker, pool: str, how: str) -> None:
    """Regression: Redis took the worker for connected, and its messages were requeued only after a whole lease."""
    broker.send("leaves_child", how)
    before = connections(broker)
    with worker(broker, pool=pool) as w:
        incarnation = w.incarnation
        eventually(lambda: how in broker.began(), describe=w.log)
        heartbeat, *_ = broker.redis.hget(broker.store.keys.incarnation(incarnation), "client").split()
        assert heartbeat in connections(broker)
        os.kill(w.pid, signal.SIGKILL)
        eventually(lambda: heartbeat not in connections(broker), describe=w.log)
        if pool != "prefork":
            # A prefork worker's pool processes notice a little later that they are alone.
            eventually(lambda: not connections(broker) - before, describe=w.log)
        (child,) = broker.redis.lrange("test:child", 0, -1)
        os.kill(int(child), 0)
