"""Without beat and without a monitor manager, workers find the dead themselves, and say that they had to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bare_broker import BareBroker
from tests.eventually import eventually
from tests.worker_process import WorkerProcess


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def test_a_worker_stands_in_for_the_monitor_manager(broker: BareBroker) -> None:
    """Regression: each stand-in's sweep was so late that it took itself for a gap, and judged nobody."""
    keys = broker.store.keys
    with (
        WorkerProcess("tests.apps.shop", broker.url, name="a", queues="billing") as a,
        WorkerProcess("tests.apps.shop", broker.url, name="b", queues="billing") as b,
    ):
        eventually(lambda: "sweeps in its place" in a.log() + b.log(), timeout_s=20)
        dead = a.incarnation
        a.kill()
        eventually(lambda: broker.redis.exists(keys.deaths), timeout_s=8, describe=b.log)
        ((_, death),) = broker.redis.xrange(keys.deaths)
        assert (death["incarnation"], death["reason"]) == (dead, "killed")
