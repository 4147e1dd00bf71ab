"""A broker with several servers: after the first is lost, everything of every process goes on with the next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import redis

from orchestrator import Handled, Orchestrator
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.embedded import EmbeddedServer
from orchestrator.health.ask_redis import last_sweep
from orchestrator.sending.broadcast import Strategy
from orchestrator.sending.delivery import CancelResult
from tests.apps import failover_app
from tests.apps.failover_app import Add
from tests.support.command_line import celery
from tests.support.eventually import eventually
from tests.support.sentinel import MASTER, watched_pair
from tests.support.tcp_proxy import TcpProxy
from tests.support.two_servers import TwoServers, independent, replicated
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.failover_app"


def started(
    url: str, lease_url: str, name: str, queue: str, *, pool: str = "threads", master: str = ""
) -> WorkerProcess:
    environment = {"ORCHESTRATOR_BROKER_URL": url, "FAILOVER_MASTER": master}
    return WorkerProcess(APP, lease_url, name=name, pool=pool, queues=queue, environment=environment)


def uses(orchestrator: Orchestrator, adder: WorkerProcess) -> None:
    """Everything that a sender has."""

    def handled() -> bool:
        try:
            return orchestrator.send("adder", Add(a=1, b=2)).wait(timeout_s=10) == Handled(3)
        except BrokerUnavailable:
            return False

    eventually(handled, 30, adder.log)
    assert orchestrator.call("adder", Add(a=2, b=2), timeout_s=10) == 4
    report = orchestrator.broadcast(["adder"], Add(a=3, b=3), strategy=Strategy.ALL_OR_NOTHING)
    assert report.wait(timeout_s=10) == {"adder": Handled(6)}
    assert orchestrator.send("adder", Add(a=4, b=4), countdown_s=60).cancel() is CancelResult.CANCELLED
    assert "adder" in orchestrator.registry.agents()
    assert orchestrator.dead_letters.list(10) is not None
    assert all(row.lost == 0 for row in orchestrator.ledger())


@contextmanager
def cluster(servers: TwoServers, *pools: str) -> Iterator[tuple[Orchestrator, list[WorkerProcess]]]:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(started(servers.url, servers.first.url, pool, "adder,monitor-manager", pool=pool))
            for pool in pools
        ]
        orchestrator = failover_app.make(servers.url)
        stack.callback(orchestrator.app.close)
        yield orchestrator, workers


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork", "gevent"])
def test_everything_goes_on_with_the_promoted_replica(pool: str) -> None:
    with replicated() as servers, cluster(servers, pool) as (orchestrator, (adder,)):
        uses(orchestrator, adder)
        living = adder.incarnation
        servers.fail_over()
        uses(orchestrator, adder)
        # The old connections are on the new server too: the same incarnation beats there.
        with redis.Redis.from_url(servers.second.url, decode_responses=True) as second:
            assert living in second.zrange("orc:leases", 0, -1), adder.log()
            assert not second.exists("orc:deaths"), adder.log()
        shown = celery("-A", APP, "agents", "--json", ORCHESTRATOR_BROKER_URL=servers.url)
        assert shown.returncode == 0, shown.stderr
        assert any("adder" in json.dumps(row) for row in json.loads(shown.stdout).values())
        sent = celery(
            "-A", APP, "send", "adder", "Add", '{"a": 5, "b": 5}', "--wait", "10", ORCHESTRATOR_BROKER_URL=servers.url
        )
        assert (sent.returncode, "10" in sent.stdout) == (0, True), sent.stderr


def test_a_down_is_delivered_after_a_failover() -> None:
    with (
        replicated() as servers,
        cluster(servers, "threads") as (orchestrator, (adder,)),
        started(servers.url, servers.first.url, "v", "victim") as victim,
        orchestrator.monitors.session() as session,
    ):
        eventually(lambda: any("victim" in i.agents for i in orchestrator.registry.incarnations()))
        ref = session.monitor("victim")
        servers.fail_over()
        uses(orchestrator, adder)
        victim.kill()
        down = session.next_down(timeout_s=30)
        assert down is not None, adder.log()
        assert (down.ref, down.target) == (ref, "victim")


def test_after_a_failover_to_a_server_that_never_knew_them_workers_register_anew() -> None:
    with independent() as servers, cluster(servers, "threads") as (orchestrator, (adder,)):
        uses(orchestrator, adder)
        servers.first.kill()
        uses(orchestrator, adder)
        with redis.Redis.from_url(servers.second.url, decode_responses=True) as second:
            assert {row["reason"] for _, row in second.xrange("orc:deaths")} == {"dataset_lost"}, adder.log()


def test_all_processes_go_back_to_the_first_server_once_it_is_a_primary_again() -> None:
    with independent() as servers, cluster(servers, "threads") as (orchestrator, (adder,)):
        uses(orchestrator, adder)
        servers.first.kill()
        uses(orchestrator, adder)
        servers.first.restart()
        with redis.Redis.from_url(servers.first.url, decode_responses=True) as first:
            eventually(lambda: first.zcard("orc:leases") == 1, 20, adder.log)
        broker = orchestrator.app.connection_for_write().transport.broker
        eventually(lambda: broker.address == f"127.0.0.1:{servers.first.port}", 20)
        uses(orchestrator, adder)


def test_a_first_server_that_was_made_a_replica_is_left() -> None:
    """It answers, and its old connections stay open, but it takes no messages any more."""
    with replicated() as servers, cluster(servers, "threads") as (orchestrator, (adder,)):
        uses(orchestrator, adder)
        servers.settled()
        servers.promote_the_second()
        servers.demote_the_first()
        uses(orchestrator, adder)
        eventually(lambda: "adder" in orchestrator.registry.agents())


def test_a_new_process_does_not_hang_on_a_first_server_that_says_nothing() -> None:
    with EmbeddedServer() as second, EmbeddedServer() as first, TcpProxy(first.url) as proxy:
        proxy.cut()
        with started(f"{proxy.url};{second.url}", second.url, "n", "adder,monitor-manager") as adder:
            orchestrator = failover_app.make(f"{proxy.url};{second.url}")
            uses(orchestrator, adder)
            orchestrator.app.close()


def test_everything_goes_on_after_a_failover_by_sentinel() -> None:
    with watched_pair() as watched:
        queue = "adder,monitor-manager"
        with started(watched.url, watched.primary.url, "s", queue, master=MASTER) as adder:
            orchestrator = failover_app.make(watched.url, master_name=MASTER)
            uses(orchestrator, adder)
            living = adder.incarnation
            watched.fail_over()
            uses(orchestrator, adder)
            with redis.Redis.from_url(watched.replica.url, decode_responses=True) as replica:
                assert living in replica.zrange("orc:leases", 0, -1), adder.log()
            orchestrator.app.close()


def test_everything_goes_on_behind_an_address_that_moves() -> None:
    with (
        replicated() as servers,
        TcpProxy(servers.first.url) as address,
        started(address.url, servers.first.url, "m", "adder,monitor-manager") as adder,
    ):
        orchestrator = failover_app.make(address.url)
        uses(orchestrator, adder)
        servers.settled()
        # The old primary lives on as a replica, and the old connections to it stay open.
        address.move(servers.second.port)
        servers.promote_the_second()
        servers.demote_the_first()
        uses(orchestrator, adder)
        orchestrator.app.close()


def test_no_server_that_answers_is_an_error_that_names_them_all() -> None:
    with independent() as servers:
        orchestrator = failover_app.make(servers.url)
        servers.first.kill()
        servers.second.kill()
        with pytest.raises(BrokerUnavailable, match=rf"{servers.first.port}.*{servers.second.port}"):
            orchestrator.ledger()
        orchestrator.app.close()


def test_a_wrong_password_for_the_first_server_is_an_error_and_no_failover() -> None:
    with EmbeddedServer(password="right") as first, EmbeddedServer() as second:
        bad = first.url.replace("right", "wrong")
        orchestrator = failover_app.make(f"{bad};{second.url}")
        with pytest.raises(BrokerUnavailable, match=r"(?i)password"):
            orchestrator.ledger()
        orchestrator.app.close()


def test_the_health_probe_asks_the_server_that_is_a_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicated() as servers:
        monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", f"redis://127.0.0.1:1/0;{servers.second.url};{servers.first.url}")
        with redis.Redis.from_url(servers.first.url) as first:
            first.hset("orc:sweep", mapping={"at_ms": 1000, "by": "first"})
        assert last_sweep(5)[:2] == (1000, "first")
        servers.fail_over()
        with redis.Redis.from_url(servers.second.url) as second:
            second.hset("orc:sweep", mapping={"at_ms": 2000, "by": "second"})
        assert last_sweep(5)[:2] == (2000, "second")
