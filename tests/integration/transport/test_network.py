"""A network that swallows everything for a while and says nothing of it, under workers of every pool."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"
POOLS = ("solo", "threads", "prefork", "gevent")


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def test_every_worker_consumes_again_when_the_network_is_back(broker: BareBroker, redis_url: str) -> None:
    """Regression: a worker waited half a minute for an answer that could not come any more."""
    with TcpProxy(redis_url) as network, contextlib.ExitStack() as running:
        environment = {
            "ORCHESTRATOR_BROKER_URL": network.url,
            "BARE_RECORD_URL": redis_url,
            # Patience with a silent Redis; 5 s unless somebody says otherwise.
            "BARE_OPTIONS": json.dumps({"socket_timeout": 1.5}),
        }
        workers = {}
        for pool in POOLS:
            workers[pool] = WorkerProcess(APP, redis_url, name=pool, pool=pool, queues=pool, environment=environment)
            running.callback(workers[pool].close)
            workers[pool].start(wait=False)

        def everybody_runs(what: str, timeout_s: float) -> None:
            for pool in POOLS:
                broker.send("note", f"{what} {pool}", queue=pool)
            eventually(
                lambda: {f"{what} {pool}" for pool in POOLS} <= set(broker.done()),
                timeout_s,
                describe=lambda: "\n".join(worker.log()[-3000:] for worker in workers.values()),
            )

        everybody_runs("before", 30)
        network.cut()
        for pool in POOLS:
            broker.send("note", f"meanwhile {pool}", queue=pool)
        eventually(lambda: all("Redis" in worker.log().partition("ready.")[2] for worker in workers.values()), 15)
        assert not any(name.startswith("meanwhile") for name in broker.done())
        network.heal()
        # By now, Celery pauses for up to 8 s between two attempts to connect.
        everybody_runs("after", 30)
        eventually(lambda: {f"meanwhile {pool}" for pool in POOLS} <= set(broker.done()))
        eventually(lambda: broker.ledger().pending == 0)
        assert broker.ledger().lost == 0
