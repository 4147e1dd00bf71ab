"""Whatever has a time-out waits until it has passed, over connections that break meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

from orchestrator import Handled, Orchestrator
from orchestrator.core.errors import BrokerUnavailable, DeliveryTimeout
from orchestrator.embedded import EmbeddedServer
from tests.apps import failover_app
from tests.apps.failover_app import Add
from tests.support.command_line import celery
from tests.support.eventually import eventually
from tests.support.named_pipes import write_to
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.failover_app"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def orchestrator(server: EmbeddedServer) -> Iterator[Orchestrator]:
    orchestrator = failover_app.make(server.url)
    yield orchestrator
    orchestrator.app.close()


def aside(act: Callable[[], Any]) -> Future[Any]:
    """Do it in a thread."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def sleeps_in(server: EmbeddedServer) -> None:
    """Wait until somebody waits in Redis."""
    with redis.Redis.from_url(server.url) as client:
        eventually(lambda: any(one["cmd"] == "blmove" for one in client.client_list()))


@contextmanager
def worker(server: EmbeddedServer) -> Iterator[WorkerProcess]:
    with WorkerProcess(
        APP, server.url, pool="threads", queues="adder,victim", environment={"ORCHESTRATOR_BROKER_URL": server.url}
    ) as process:
        yield process


def restarted(server: EmbeddedServer) -> None:
    server.kill()
    server.restart()


def test_a_wait_goes_on_over_a_restart_of_redis(server: EmbeddedServer, orchestrator: Orchestrator) -> None:
    delivery = orchestrator.send("adder", Add(a=1, b=2))
    waiting = aside(lambda: delivery.wait(timeout_s=60))
    sleeps_in(server)
    restarted(server)
    with worker(server):
        assert waiting.result(60) == Handled(3)


def test_a_wait_that_begins_while_redis_is_away_goes_on(server: EmbeddedServer, orchestrator: Orchestrator) -> None:
    """The sender has not looked for an outcome before, so not even a connection for it is open."""
    delivery = orchestrator.send("adder", Add(a=1, b=2))
    assert "store" not in vars(orchestrator)
    server.kill()
    waiting = aside(lambda: delivery.wait(timeout_s=60))
    server.restart()
    with worker(server):
        assert waiting.result(60) == Handled(3)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A handler's message names it, and lasts until the test writes to it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_the_wait_for_a_broadcast_goes_on(server: EmbeddedServer, orchestrator: Orchestrator, pipe: Path) -> None:
    with worker(server) as host:
        eventually(lambda: orchestrator.registry.hosted("adder", "adder"))
        report = orchestrator.broadcast(["adder"], failover_app.Lasts(pipe=str(pipe)))
        waiting = aside(lambda: report.wait(timeout_s=60))
        sleeps_in(server)
        restarted(server)
        write_to(pipe, "done", host.log)
        assert waiting.result(60) == {"adder": Handled("done")}, host.log()


def test_a_session_s_wait_for_a_down_goes_on(server: EmbeddedServer, orchestrator: Orchestrator) -> None:
    with worker(server) as host, orchestrator.monitors.session() as session:
        eventually(lambda: any("victim" in i.agents for i in orchestrator.registry.incarnations()))
        ref = session.monitor("victim")
        waiting = aside(lambda: session.next_down(timeout_s=60))
        sleeps_in(server)
        restarted(server)
        with redis.Redis.from_url(server.url) as client:
            eventually(lambda: client.zcard("orc:leases") == 2)
        host.kill()
        down = waiting.result(60)
        assert down is not None
        assert down.ref == ref


def test_the_command_line_s_wait_goes_on(server: EmbeddedServer) -> None:
    waiting = aside(
        lambda: celery(
            "-A", APP, "send", "adder", "Add", '{"a": 1, "b": 2}', "--wait", "40", ORCHESTRATOR_BROKER_URL=server.url
        )
    )
    sleeps_in(server)
    restarted(server)
    with worker(server):
        done = waiting.result(60)
    assert (done.returncode, "handled" in done.stdout) == (0, True), done.stderr


def test_a_call_s_wait_goes_on(server: EmbeddedServer, orchestrator: Orchestrator, pipe: Path) -> None:
    with worker(server) as host:
        eventually(lambda: orchestrator.registry.hosted("adder", "adder"))
        with redis.Redis.from_url(server.url) as client:
            waiting = aside(lambda: orchestrator.call("adder", failover_app.Lasts(pipe=str(pipe)), timeout_s=40))
            eventually(lambda: client.xpending("orc:q:0:adder", "workers")["pending"] == 1, describe=host.log)
        sleeps_in(server)
        restarted(server)
        write_to(pipe, "done", host.log)
        assert waiting.result(60) == "done"


def test_a_wait_ends_when_its_time_has_passed_though_redis_stays_away(
    server: EmbeddedServer, orchestrator: Orchestrator
) -> None:
    delivery = orchestrator.send("adder", Add(a=1, b=2))
    server.kill()
    began = monotonic()
    with pytest.raises(BrokerUnavailable):
        delivery.wait(timeout_s=1)
    assert monotonic() - began >= 1
    with pytest.raises(BrokerUnavailable):
        delivery.outcome()


def test_a_wait_without_an_outcome_is_a_time_out_though_a_connection_broke(
    server: EmbeddedServer, orchestrator: Orchestrator
) -> None:
    delivery = orchestrator.send("adder", Add(a=1, b=2))
    waiting = aside(lambda: delivery.wait(timeout_s=4))
    sleeps_in(server)
    restarted(server)
    with pytest.raises(DeliveryTimeout):
        waiting.result(60)


def test_a_wait_goes_on_while_redis_is_full(server: EmbeddedServer, orchestrator: Orchestrator) -> None:
    """To wait moves an element onto itself, which a full server refuses as a write."""
    delivery = orchestrator.send("adder", Add(a=1, b=2))
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        waiting = aside(lambda: delivery.wait(timeout_s=60))
        with worker(server):
            assert waiting.result(60) == Handled(3)


def test_the_first_command_after_a_restart_succeeds_on_each_pooled_connection(
    server: EmbeddedServer, orchestrator: Orchestrator
) -> None:
    store = orchestrator.runtime.store
    connections = [store.pool.get_connection() for _ in range(4)]
    for connection in connections:
        store.pool.release(connection)
    restarted(server)
    for _ in range(8):
        assert orchestrator.ledger() == []
        assert store.client.ping()
        assert orchestrator.dead_letters.list(1) == []
