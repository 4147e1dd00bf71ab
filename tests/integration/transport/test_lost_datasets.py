"""A Redis that comes back without its data, or with older data: everybody is told what that means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator import Handled, Orchestrator
from orchestrator.core.errors import OwnerGone
from orchestrator.embedded import EmbeddedServer
from orchestrator.telemetry import Event, attach, detach
from orchestrator.transport.redis.dataset import Dataset, identify
from tests.apps import failover_app
from tests.apps.failover_app import Add
from tests.support.bare_broker import BareBroker
from tests.support.command_line import celery
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.failover_app"


def hosting(server: EmbeddedServer, tmp_path: Path) -> WorkerProcess:
    environment = {"ORCHESTRATOR_BROKER_URL": server.url, "ORCHESTRATOR_HEALTH_DIR": str(tmp_path)}
    return WorkerProcess(APP, server.url, pool="threads", queues="adder,monitor-manager", environment=environment)


def handles_again(orchestrator: Orchestrator, worker: WorkerProcess) -> None:
    outcome = orchestrator.send("adder", Add(a=1, b=2)).wait(timeout_s=30)
    assert outcome == Handled(3), worker.log()


def age_ms(client: Any, record_key: str) -> int:
    """The time from an incarnation's registration to its last heartbeat."""
    return int(client.hget(record_key, "age_ms") or 0)


def reasons(server: EmbeddedServer) -> list[str]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        rows: Any = client.xrange("orc:deaths")
        return [fields["reason"] for _, fields in rows]


def remembered(tmp_path: Path) -> dict[str, Any]:
    (file,) = tmp_path.glob("*.json")
    known: dict[str, Any] = json.loads(file.read_text())
    return {"id": "", **known.get("dataset", {})}


@pytest.fixture
def kept() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.mark.parametrize("how", ["restarted without persistence", pytest.param("flushed", marks=pytest.mark.slow)])
def test_workers_say_that_redis_has_lost_its_data_and_the_ledger_does_too(how: str, tmp_path: Path) -> None:
    with EmbeddedServer() as server, hosting(server, tmp_path) as worker:
        orchestrator = failover_app.make(server.url)
        handles_again(orchestrator, worker)
        before = orchestrator.dataset()
        assert before is not None
        eventually(lambda: remembered(tmp_path)["id"] == before.dataset.id, describe=worker.log)
        if how == "flushed":
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
        else:
            server.kill()
            server.restart()
        handles_again(orchestrator, worker)
        log = eventually(lambda: worker.log() if "has lost its data" in worker.log() else "", describe=worker.log)
        assert "ERROR" in next(line for line in log.splitlines() if "has lost its data" in line)
        assert before.dataset.id in log
        assert "declared dead" not in log
        eventually(lambda: reasons(server) == ["dataset_lost"], describe=worker.log)

        after = orchestrator.dataset()
        assert after is not None
        assert after.dataset.id != before.dataset.id
        assert after.dataset.epoch == before.dataset.epoch + 1
        assert [(loss.kind, loss.born_ms) for loss in after.losses] == [("replaced", before.dataset.born_ms)]
        eventually(lambda: remembered(tmp_path)["id"] == after.dataset.id, describe=worker.log)

        command = ("-A", APP, "ledger")
        shown = celery(*command, ORCHESTRATOR_BROKER_URL=server.url)
        assert (shown.returncode, "has lost data" in shown.stderr) == (1, True), shown.stderr
        assert "counted since" in shown.stdout
        acknowledged = celery(*command, "--json", "--acknowledge-loss", ORCHESTRATOR_BROKER_URL=server.url)
        assert acknowledged.returncode == 0, acknowledged.stderr
        document = json.loads(acknowledged.stdout)
        assert (document["losses"], document["dataset"]["id"]) == ([], after.dataset.id)
        orchestrator.app.close()


def test_a_restart_that_loses_nothing_is_no_loss(kept: EmbeddedServer, tmp_path: Path) -> None:
    with hosting(kept, tmp_path) as worker:
        orchestrator = failover_app.make(kept.url)
        handles_again(orchestrator, worker)
        kept.kill()
        kept.restart()
        handles_again(orchestrator, worker)
        with redis.Redis.from_url(kept.url) as client:
            began: Any = client.time()
            eventually(lambda: (client.zscore("orc:leases", worker.incarnation) or 0) > (began[0] + 1) * 1000)
        record = orchestrator.dataset()
        assert record is not None
        assert record.losses == ()
        assert reasons(kept) == []
        orchestrator.app.close()


def test_an_older_snapshot_is_a_loss(tmp_path: Path) -> None:
    with EmbeddedServer() as server, hosting(server, tmp_path) as worker:
        orchestrator = failover_app.make(server.url)
        handles_again(orchestrator, worker)
        with redis.Redis.from_url(server.url) as client:
            record_key = f"orc:incarnation:{worker.incarnation}"
            client.save()
            # Of the heartbeats alone: the heart renews the lease, too, and what it has written is not missed.
            saved_age_ms = age_ms(client, record_key)
            eventually(lambda: age_ms(client, record_key) - saved_age_ms > 1000)
        server.kill()
        server.restart()
        eventually(lambda: "went back to an earlier state" in worker.log(), 20, worker.log)
        record = orchestrator.dataset()
        assert record is not None
        (loss,) = record.losses
        assert (loss.kind, loss.lost_ms > 1000) == ("rewound", True)
        handles_again(orchestrator, worker)
        assert "declared dead" not in worker.log()
        orchestrator.app.close()


def test_a_session_learns_that_its_monitors_are_lost_with_the_data(redis_url: str) -> None:
    orchestrator = failover_app.make(redis_url)
    heard: list[Event] = []
    attach(heard.append, "dataset.lost")
    try:
        with orchestrator.monitors.session() as session:
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            eventually(lambda: heard)
            with pytest.raises(OwnerGone):
                session.next_down(timeout_s=1)
    finally:
        detach(heard.append)
    assert (heard[0].metadata["kind"], heard[0].metadata["incarnation"]) == ("replaced", session.id)
    orchestrator.app.close()


@pytest.mark.parametrize("options", [{}, {"idempotency_key": "k"}, {"countdown_s": 3600}, {"track": False}], ids=str)
def test_a_sender_whose_connection_outlives_the_data_has_its_mailbox_listed(
    options: dict[str, Any], redis_url: str
) -> None:
    orchestrator = failover_app.make(redis_url)
    orchestrator.send("adder", Add(a=1, b=2))
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    orchestrator.send("adder", Add(a=1, b=2), **options)
    assert [(row.queue, row.accepted, row.pending) for row in orchestrator.ledger()] == [("adder", 1, 1)]
    orchestrator.app.close()


def test_an_id_names_one_incarnation_of_a_process_though_redis_has_lost_its_counter(redis_url: str) -> None:
    orchestrator = failover_app.make(redis_url)
    with orchestrator.monitors.session() as first:
        before = first.id
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    with orchestrator.monitors.session() as second:
        assert int(second.id.rpartition("#")[2]) > int(before.rpartition("#")[2])


def test_a_data_set_has_its_identity_once(broker: BareBroker) -> None:
    run, keys = broker.store.run, broker.store.keys
    first = identify(run, keys, None)
    assert (identify(run, keys, None), identify(run, keys, first), first.epoch) == (first, first, 1)
    record = broker.store.dataset()
    assert record is not None
    assert (record.dataset, record.losses) == (first, ())


def test_who_remembers_a_lost_data_set_says_so_though_others_registered_first(broker: BareBroker) -> None:
    run, keys = broker.store.run, broker.store.keys
    lost = Dataset("lost", 1_000, 7)
    new = identify(run, keys, None)
    assert identify(run, keys, lost).epoch == 8
    record = broker.store.dataset()
    assert record is not None
    assert (record.dataset.id, record.dataset.epoch) == (new.id, 8)
    broker.store.acknowledge_losses()
    # Another process that learns of the same loss later makes it no new one.
    identify(run, keys, lost)
    again = broker.store.dataset()
    assert again is not None
    assert again.losses == ()


def test_nothing_is_known_of_a_data_set_in_which_nobody_registered(broker: BareBroker) -> None:
    assert broker.store.dataset() is None
