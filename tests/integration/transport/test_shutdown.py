"""Warm, soft and cold shutdown: what was begun is finished or goes back, and nobody is blamed."""

from __future__ import annotations

import signal

import pytest

from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually

POOLS = ["solo", "threads", "prefork", "gevent"]


@pytest.mark.parametrize("pool", POOLS)
def test_warm_shutdown_finishes_what_runs_and_returns_the_rest(broker: BareBroker, pool: str) -> None:
    broker.send("hold", "h0", "h1", "h2", "h3", "h4", "h5")
    with worker(broker, pool=pool) as w:
        eventually(lambda: broker.ledger().held >= 4 and broker.began() == ["h0"])
        w.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in w.log())
        broker.go("h0", "h1", "h2", "h3", "h4", "h5")
        eventually(lambda: not w.is_running, describe=w.log)
    row = broker.ledger()
    assert row.held == 0
    assert row.handled + row.ready == 6
    assert row.lost == 0
    assert row.restarted == 0
    assert broker.redis.zcard(broker.store.keys.leases) == 0


def test_soft_shutdown_lets_short_tasks_finish_and_returns_the_rest(broker: BareBroker) -> None:
    environment, arguments = {"BARE_SOFT_SHUTDOWN_S": "0.5"}, ("--include", "tests.apps.soft_shutdown")
    with worker(broker, pool="prefork", environment=environment, arguments=arguments) as w:
        broker.send("hold", "short")
        eventually(lambda: broker.began() == ["short"])
        broker.send("hold", "long", "waiting")
        eventually(lambda: broker.ledger().held == 3)
        w.signal(signal.SIGQUIT)
        eventually(lambda: "Initiating Soft Shutdown" in w.log())
        broker.go("short")
        eventually(lambda: broker.done() == {"short": 1}, describe=w.log)
        broker.redis.rpush("test:soft-shutdown-over", 1)
        eventually(lambda: not w.is_running, describe=w.log)
    row = broker.ledger()
    assert (broker.done(), row.handled, row.ready, row.held) == ({"short": 1}, 1, 2, 0)
    assert row.restarted == 0


def test_cold_shutdown_returns_everything_and_blames_nobody(broker: BareBroker) -> None:
    with worker(broker, pool="prefork") as w:
        broker.send("hold", "h0", "h1")
        eventually(lambda: broker.began() == ["h0"])
        w.signal(signal.SIGQUIT)
        eventually(lambda: not w.is_running, describe=w.log)
        eventually(lambda: broker.ledger().ready == 2)
    assert broker.ledger().restarted == 0


def test_cold_shutdown_of_a_pool_that_cannot_cancel_does_not_fail_what_runs(broker: BareBroker) -> None:
    broker.send("hold", "h0", "h1")
    with worker(broker, pool="solo") as w:
        eventually(lambda: broker.began() == ["h0"], describe=w.log)
        w.signal(signal.SIGQUIT)
        eventually(lambda: "Cold shutdown" in w.log(), describe=w.log)
        broker.go("h0")
        eventually(lambda: not w.is_running, timeout_s=20, describe=w.log)
        assert "NotImplementedError" not in w.log()
    assert broker.done() == {"h0": 1}
    row = broker.ledger()
    assert (row.handled, row.ready, row.restarted, row.lost) == (1, 1, 0, 0)
