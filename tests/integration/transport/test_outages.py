"""Redis is killed, restarted, stopped and told to pause, under workers that must neither die nor lose anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu.exceptions import OperationalError

from orchestrator.embedded import EmbeddedServer
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"
POOLS = ["solo", "threads", "prefork", "gevent"]


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def broker(server: EmbeddedServer) -> Iterator[BareBroker]:
    broker = BareBroker(server.url)
    yield broker
    broker.close()


def no_deaths(broker: BareBroker) -> bool:
    return not broker.redis.exists(broker.store.keys.deaths)


@pytest.fixture
def seen() -> Iterator[BareBroker]:
    """Where the tasks record what they do: they must not depend on the server that is killed."""
    with EmbeddedServer() as side:
        observer = BareBroker(side.url)
        yield observer
        observer.close()


def swept_more(broker: BareBroker) -> None:
    """Wait until there have been four more sweeps."""

    def sweeps() -> int:
        return int(broker.redis.hget(broker.store.keys.sweep, "sweeps") or 0)

    before = sweeps()
    eventually(lambda: sweeps() > before + 3)


@pytest.mark.parametrize("pool", POOLS)
def test_every_worker_consumes_again_after_redis_was_killed(
    server: EmbeddedServer, broker: BareBroker, seen: BareBroker, pool: str
) -> None:
    names = [f"n{i}" for i in range(200)]
    environment = {"BARE_RECORD_URL": seen.url}
    with WorkerProcess(APP, server.url, pool=pool, concurrency=2, environment=environment) as w:
        broker.send("note", *names[:100])
        eventually(lambda: broker.ledger().handled > 0, describe=w.log)
        server.kill()
        server.restart()
        broker.send("note", *names[100:])
        eventually(lambda: set(seen.done()) == set(names), timeout_s=20, describe=w.log)
        eventually(lambda: broker.ledger().pending == 0, timeout_s=20, describe=w.log)
        row = broker.ledger()
        assert (row.handled, row.lost) == (200, 0)
        assert no_deaths(broker)


def test_what_celery_cancels_when_its_connection_is_lost_runs_again(
    server: EmbeddedServer, broker: BareBroker, seen: BareBroker
) -> None:
    """Regression: it was held until the worker ended."""
    environment = {"BARE_RECORD_URL": seen.url, "BARE_CANCELS": "1"}
    with WorkerProcess(APP, server.url, pool="prefork", environment=environment) as w:
        broker.send("hold", "h0")
        eventually(lambda: seen.began() == ["h0"], describe=w.log)
        server.kill()
        server.restart()
        eventually(lambda: seen.began() == ["h0", "h0"], timeout_s=20, describe=w.log)
        seen.go("h0", "h0")
        eventually(lambda: broker.ledger().handled == 1, timeout_s=20, describe=w.log)
        assert no_deaths(broker)
        assert broker.ledger().restarted == 0


@pytest.mark.parametrize("pool", POOLS)
def test_what_was_running_when_redis_was_killed_is_settled_afterwards(
    server: EmbeddedServer, broker: BareBroker, seen: BareBroker, pool: str
) -> None:
    with WorkerProcess(APP, server.url, pool=pool, environment={"BARE_RECORD_URL": seen.url}) as w:
        broker.send("hold", "h0")
        eventually(lambda: seen.began() == ["h0"], describe=w.log)
        server.kill()
        server.restart()
        seen.go("h0")
        eventually(lambda: broker.ledger().handled == 1, timeout_s=30, describe=w.log)
        assert seen.began() == ["h0"]
        assert no_deaths(broker)


def test_a_hanging_redis_kills_nobody(server: EmbeddedServer, broker: BareBroker) -> None:
    # Longer than a process waits for its turn on a busy machine.
    short = {"BARE_LEASE_S": "3"}
    with (
        WorkerProcess(APP, server.url, name="a", environment=short) as a,
        WorkerProcess(APP, server.url, name="b", pool="prefork", environment=short) as b,
    ):
        broker.send("note", "before")
        eventually(lambda: broker.done() == {"before": 1})
        # Every client is held up, heartbeats and sweeps alike, for longer than a lease lasts.
        broker.redis.client_pause(4000)
        broker.send("note", "after")
        eventually(lambda: broker.done() == {"before": 1, "after": 1}, timeout_s=20, describe=a.log)
        eventually(lambda: broker.ledger().pending == 0)
        swept_more(broker)
        assert no_deaths(broker), b.log()
        assert broker.redis.zcard(broker.store.keys.leases) == 2


def test_a_clock_that_jumps_kills_nobody(server: EmbeddedServer, broker: BareBroker) -> None:
    """Redis' clock is the only one that counts; a jump looks like a long time without a sweep."""
    keys = broker.store.keys
    with WorkerProcess(APP, server.url, name="a"), WorkerProcess(APP, server.url, name="b"):
        for hours in (1, -1):
            now_ms = broker.redis.time()[0] * 1000
            # As if everything on record had been written an hour ago, or an hour from now.
            shifted = now_ms - hours * 3_600_000
            broker.redis.hset(keys.sweep, "at_ms", shifted)
            for lease in broker.redis.zrange(keys.leases, 0, -1):
                broker.redis.zadd(keys.leases, {lease: shifted})
            swept_more(broker)
        assert no_deaths(broker)
        assert broker.redis.zcard(keys.leases) == 2


def test_a_full_redis_is_an_error_at_the_sender_and_loses_nothing(server: EmbeddedServer, broker: BareBroker) -> None:
    broker.send("note", *[f"n{i}" for i in range(50)])
    broker.redis.config_set("maxmemory-policy", "noeviction")
    broker.redis.config_set("maxmemory", "1mb")
    with pytest.raises(OperationalError, match="maxmemory"):
        broker.send("note", "refused")
    with EmbeddedServer() as side, WorkerProcess(APP, server.url, environment={"BARE_RECORD_URL": side.url}) as w:
        # Acknowledging and giving back must work where accepting does not.
        eventually(lambda: broker.ledger().handled == 50, timeout_s=20, describe=w.log)
        broker.redis.config_set("maxmemory", "0")
        broker.send("note", "accepted")
        eventually(lambda: broker.ledger().pending == 0, describe=w.log)
    assert broker.ledger().lost == 0
