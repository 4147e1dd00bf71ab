"""Workers find the dead themselves: at once when one is missed, and for good where no monitor manager does."""

from __future__ import annotations

import json
from time import monotonic

import pytest

from orchestrator.transport import options
from orchestrator.transport.liveness import fallback_sweeper, sweep
from orchestrator.transport.liveness.fallback_sweeper import FallbackSweeper
from orchestrator.transport.liveness.heartbeat import HeartbeatReply
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: Nobody sweeps because nobody has for long.
PATIENT = {"sweep_stale_s": 300, "sweep_gap_s": 400}


def test_a_worker_stands_in_for_the_monitor_manager(broker: BareBroker) -> None:
    """Regression: each stand-in's sweep was so late that it took itself for a gap, and judged nobody."""
    keys = broker.store.keys
    with (
        WorkerProcess("tests.apps.shop", broker.url, name="a", queues="billing") as a,
        WorkerProcess("tests.apps.shop", broker.url, name="b", queues="billing") as b,
    ):
        eventually(lambda: "sweeps in place of the monitor manager" in a.log() + b.log(), timeout_s=20)
        dead = a.incarnation
        a.kill()
        eventually(lambda: broker.redis.exists(keys.deaths), timeout_s=8, describe=b.log)
        ((_, death),) = broker.redis.xrange(keys.deaths)
        assert (death["incarnation"], death["reason"]) == (dead, "killed")


def test_one_who_is_missed_is_swept_for_without_waiting_for_a_turn(redis_url: str) -> None:
    broker = BareBroker(redis_url, **PATIENT)
    k = broker.store.keys
    # Somebody has swept before, and the graces of a first sweep are over.
    broker.store.sweeper().sweep("manager")
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    # Without a heart, which would report its worker's end itself.
    options = {"BARE_OPTIONS": json.dumps({**PATIENT, "heart": False})}
    with (
        worker(broker, "a", environment=options) as a,
        worker(broker, "b", environment=options) as b,
    ):
        eventually(lambda: broker.redis.zcard(k.leases) == 2, timeout_s=20, describe=b.log)
        dead = a.incarnation
        a.kill()
        eventually(lambda: broker.redis.exists(k.deaths), timeout_s=8, describe=b.log)
        ((_, death),) = broker.redis.xrange(k.deaths)
        assert (death["incarnation"], death["reason"], death["by"]) == (dead, "killed", b.incarnation)
        assert "sweeps in place of the monitor manager" not in b.log()
    broker.close()


def test_a_proved_death_is_swept_for_although_nobody_has_swept_before(redis_url: str) -> None:
    """Regression: its messages waited for the first sweep of all, 3 s after the start of whoever swept then."""
    broker = BareBroker(redis_url, **PATIENT)
    k = broker.store.keys
    options = {"BARE_OPTIONS": json.dumps(PATIENT)}
    with worker(broker, "a", environment=options) as a, worker(broker, "b", environment=options) as b:
        incarnations = {a.incarnation, b.incarnation}
        eventually(lambda: all(broker.redis.hget(k.incarnation(one), "heart") for one in incarnations), describe=a.log)
        assert broker.redis.hget(k.sweep, "at_ms") is None
        broker.send("once_deadly", "m")
        eventually(lambda: broker.done() == {"m": 1}, timeout_s=8, describe=b.log)
        ((_, death),) = broker.redis.xrange(k.deaths)
        assert (death["reason"], death["by"]) == ("killed", "heart")
        assert {death["incarnation"], broker.redis.hget(k.sweep, "by")} == incarnations
    broker.close()


def test_a_worker_that_ends_with_its_heart_is_followed_as_soon_as_it_could_have_connected_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the verdict waited for the sweeper's next heartbeat, half a second later."""
    # A verdict is due 110 s after the last heartbeat: a hundred times what it is by default, so nothing here is late.
    monkeypatch.setattr(options, "_LONGEST_MARGIN_WITH_HEART_MS", 60_000)
    monkeypatch.setattr(sweep, "TURN_S", 60.0)
    broker = BareBroker(redis_url, heartbeat_s=50, heartbeat_timeout_s=60, lease_s=600, sweep_gap_s=3600)
    k, store = broker.store.keys, broker.store
    store.sweeper().sweep("manager")
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    raw, _ = store.run(*commands.register(k, "gone:1", {"node": "gone"}))
    server = broker.redis.info("server")["run_id"]
    ends = {"client": f"99998 gone {server}", "heart": f"99999 gone/heart {server}", "round_trip_ms": "1"}
    broker.redis.hset(k.incarnation(raw.decode()), mapping=ends)
    sweeper = FallbackSweeper(store.sweeper(), store.options, "w", ())
    began = monotonic()
    broker.redis.zadd(k.leases, {raw: redis_ms(broker) - 90_000})
    sweeper.after_heartbeat(HeartbeatReply(0, asks_for_sweep=True))
    assert not broker.redis.exists(k.deaths)
    next_in_s = sweeper.next_in_s(50)
    assert 19.9 - (monotonic() - began) < next_in_s < 20.1
    # When that is over:
    broker.redis.zadd(k.leases, {raw: redis_ms(broker) - 110_100})
    monkeypatch.setattr(fallback_sweeper, "monotonic", lambda: monotonic() + 20.1)
    assert sweeper.next_in_s(50) == 0
    sweeper.after_heartbeat(HeartbeatReply(0, asks_for_sweep=False))
    assert broker.redis.exists(k.deaths)
    assert sweeper.next_in_s(50) == 50
    broker.close()


def redis_ms(broker: BareBroker) -> int:
    seconds, micros = broker.redis.time()
    return int(seconds * 1000 + micros // 1000)
