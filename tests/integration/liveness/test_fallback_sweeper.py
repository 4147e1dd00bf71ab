"""Workers find the dead themselves: at once when one is missed, and for good where no monitor manager does."""

from __future__ import annotations

import json

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
