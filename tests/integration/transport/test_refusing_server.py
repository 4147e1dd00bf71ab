"""A server that answers and takes no writes, for a while: workers wait for it as for one that is away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from tests.apps import agents_app
from tests.support.agents_cluster import agents_on
from tests.support.bare_broker import BareBroker, kombu_connection
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: What Celery says; the second where even a PING is refused.
REFUSED = re.compile("Connection to broker lost|Cannot connect to")
ServerChange = Callable[[Any], Any]


def too_few_replicas(client: Any) -> None:
    client.config_set("min-replicas-to-write", 1)


def enough_replicas(client: Any) -> None:
    client.config_set("min-replicas-to-write", 0)


def demoted(client: Any) -> None:
    client.replicaof("127.0.0.1", 1)


def promoted(client: Any) -> None:
    client.replicaof("NO", "ONE")


def not_saved(client: Any) -> None:
    folder, name = client.config_get("dir"), client.config_get("dbfilename")
    in_the_way = Path(folder["dir"], name["dbfilename"])
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    client.config_set("save", "3600 1000000")
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


def saved_or_not(client: Any) -> None:
    client.config_set("stop-writes-on-bgsave-error", "no")


WAYS = [
    pytest.param(not_saved, saved_or_not, id="MISCONF", marks=pytest.mark.slow),
    pytest.param(too_few_replicas, enough_replicas, id="NOREPLICAS"),
    pytest.param(demoted, promoted, id="READONLY", marks=pytest.mark.slow),
]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def broker(server: EmbeddedServer) -> Iterator[BareBroker]:
    broker = BareBroker(server.url)
    yield broker
    broker.close()


@pytest.fixture
def seen() -> Iterator[BareBroker]:
    """Where the tasks record what they do: it must not refuse."""
    with EmbeddedServer() as side:
        observer = BareBroker(side.url)
        yield observer
        observer.close()


def refused_twice(worker: WorkerProcess) -> None:
    """Wait until a worker has come back to a server that still refuses."""
    eventually(lambda: len(REFUSED.findall(worker.log())) > 1 or not worker.is_running, 20, worker.log)
    assert worker.is_running, worker.log()


@pytest.mark.parametrize("pool", ["solo", "prefork", "gevent"])
@pytest.mark.parametrize(("refuse", "relent"), WAYS)
def test_a_worker_outlives_a_server_that_refuses(
    broker: BareBroker, seen: BareBroker, refuse: ServerChange, relent: ServerChange, pool: str
) -> None:
    """Regression: it came back after the first refusal, and ended with "Unrecoverable error" at the next."""
    with WorkerProcess("tests.apps.bare", broker.url, pool=pool, environment={"BARE_RECORD_URL": seen.url}) as w:
        broker.send("note", "before")
        eventually(lambda: seen.done() == {"before": 1}, describe=w.log)
        refuse(broker.redis)
        refused_twice(w)
        relent(broker.redis)
        broker.send("note", "after")
        eventually(lambda: seen.done() == {"before": 1, "after": 1}, timeout_s=20, describe=w.log)
        assert w.is_running
        eventually(lambda: broker.ledger().pending == 0, describe=w.log)
        assert not broker.redis.exists(broker.store.keys.deaths)
        assert broker.ledger().restarted == 0


def test_what_runs_while_the_server_refuses_is_settled_afterwards(broker: BareBroker, seen: BareBroker) -> None:
    with WorkerProcess("tests.apps.bare", broker.url, pool="threads", environment={"BARE_RECORD_URL": seen.url}) as w:
        broker.send("hold", "h0")
        eventually(lambda: seen.began() == ["h0"], describe=w.log)
        too_few_replicas(broker.redis)
        refused_twice(w)
        seen.go("h0")
        eventually(lambda: seen.done() == {"h0": 1}, describe=w.log)
        enough_replicas(broker.redis)
        eventually(lambda: broker.ledger().handled == 1, timeout_s=20, describe=w.log)
        assert seen.began() == ["h0"]
        assert not broker.redis.exists(broker.store.keys.deaths)


@pytest.mark.parametrize(("refuse", "relent"), WAYS)
@pytest.mark.parametrize(
    ("app", "task", "args"), [("tests.apps.bare", "note", ["n"]), ("tests.apps.agents_app", "plain.add", [1, 2])]
)
def test_a_worker_that_starts_while_the_server_refuses_waits(
    broker: BareBroker,
    seen: BareBroker,
    refuse: ServerChange,
    relent: ServerChange,
    app: str,
    task: str,
    args: list[Any],
) -> None:
    """Regression: it ended with "Unrecoverable error"."""
    refuse(broker.redis)
    worker = WorkerProcess(app, broker.url, queues="celery,worker", environment={"BARE_RECORD_URL": seen.url})
    try:
        worker.start(wait=False)
        refused_twice(worker)
        relent(broker.redis)
        broker.app.send_task(task, args=args)
        eventually(lambda: broker.ledger().handled == 1, timeout_s=20, describe=worker.log)
        assert worker.is_running, worker.log()
    finally:
        worker.close()


@pytest.mark.parametrize(("refuse", "relent"), WAYS)
def test_a_sender_is_told_and_may_send_again(broker: BareBroker, refuse: ServerChange, relent: ServerChange) -> None:
    broker.send("note", "before")
    refuse(broker.redis)
    with pytest.raises(OperationalError):
        broker.send("note", "refused")
    with kombu_connection(broker.url) as connection, pytest.raises(OperationalError):
        connection.Producer().publish({}, routing_key="plain", retry=True, retry_policy={"max_retries": None})
    relent(broker.redis)
    broker.send("note", "after")
    assert broker.ledger().accepted == 2


@pytest.mark.parametrize(("refuse", "relent"), WAYS)
def test_who_sends_to_an_agent_is_told_that_the_broker_is_not_available(
    server: EmbeddedServer, refuse: ServerChange, relent: ServerChange
) -> None:
    cluster = agents_on(server.url, None)
    try:
        cluster.orchestrator.send("worker", agents_app.Add(a=1, b=2))
        refuse(cluster.redis)
        with pytest.raises(BrokerUnavailable, match=r"NOREPLICAS|is a replica|MISCONF"):
            cluster.orchestrator.send("worker", agents_app.Add(a=1, b=2))
        with pytest.raises(BrokerUnavailable):
            cluster.orchestrator.send_many("worker", [agents_app.Add(a=1, b=2)] * 3)
        relent(cluster.redis)
        cluster.orchestrator.send("worker", agents_app.Add(a=1, b=2))
        assert cluster.row().accepted == 2
    finally:
        cluster.close()
