"""Redis' clock jumps, or a failover leads to a host whose clock is behind: that is no loss of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.transport.liveness.heartbeat import Heartbeat
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.scripts import Script
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.redis_clock import TimedScripts

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


class TimedWire(CommandConnection):
    """Runs scripts by the test's clock."""

    def __init__(self, broker: BareBroker, scripts: TimedScripts) -> None:
        super().__init__(broker.store.pool)
        self._scripts = scripts

    def run(self, script: str | Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        assert isinstance(script, str)
        answer = self._scripts.run(script, list(keys), list(args))
        return [part.encode() if isinstance(part, str) else part for part in answer]


class TimedIncarnation:
    """One incarnation, a sweep, and a clock."""

    def __init__(self, broker: BareBroker) -> None:
        self.broker, self.keys = broker, broker.store.keys
        self.scripts = TimedScripts(broker.redis)
        self.scripts.set(NOW_MS)
        options = replace(broker.store.options, heart=False)
        self.heartbeat = Heartbeat(TimedWire(broker, self.scripts), self.keys, options, broker.store.broker)
        broker.store.broker.datasets.clear()  # Of another test.
        self.heartbeat.register()

    def beat(self) -> None:
        assert self.heartbeat.beat([], [], lambda: False) is not None

    def sweep(self) -> None:
        k = self.keys
        self.scripts.run(
            *commands.begin_sweep(
                k, "t", "test", late_ms=850, gap_ms=2500, closed_grace_ms=500, old_heartbeat_grace_ms=500, turn_ms=1000
            )
        )

    def losses(self) -> list[str]:
        record = self.broker.store.dataset()
        assert record is not None
        return [loss.kind for loss in record.losses]


@pytest.fixture
def ground(broker: BareBroker) -> TimedIncarnation:
    return TimedIncarnation(broker)


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -1_500, HOUR_MS])
@pytest.mark.parametrize("swept", [True, False])
def test_a_clock_that_jumps_between_two_heartbeats_is_no_loss(
    ground: TimedIncarnation, jump_ms: int, swept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: a sweep puts leases from the future back, which was taken for a data set from an hour ago."""
    ground.beat()
    ground.scripts.set(NOW_MS + jump_ms)
    if swept:
        ground.sweep()
    ground.beat()
    ground.beat()
    assert ground.losses() == []
    assert "went back" not in caplog.text


def test_a_lease_that_the_heart_renewed_before_the_clock_jumped_is_no_loss(ground: TimedIncarnation) -> None:
    ground.beat()
    k, incarnation = ground.keys, ground.heartbeat.incarnation
    for now_ms in (NOW_MS + 500, NOW_MS - HOUR_MS):
        ground.scripts.set(now_ms)
        assert ground.scripts.run(*commands.renew_lease(k, incarnation, "7 heart")) == 1
    ground.sweep()
    ground.beat()
    assert ground.losses() == []


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, 0, HOUR_MS])
def test_a_heartbeat_that_redis_has_forgotten_is_a_loss_of_that_long_whatever_the_clock_says(
    ground: TimedIncarnation, jump_ms: int
) -> None:
    ground.beat()
    k, incarnation = ground.keys, ground.heartbeat.incarnation
    kept = ground.broker.redis.hgetall(k.incarnation(incarnation))
    lease = ground.broker.redis.zscore(k.leases, incarnation)

    def is_later() -> bool:
        ground.beat()
        return int(ground.broker.redis.hget(k.incarnation(incarnation), "age_ms")) > int(kept["age_ms"])

    eventually(is_later)
    ground.broker.redis.delete(k.incarnation(incarnation))
    ground.broker.redis.hset(k.incarnation(incarnation), mapping=kept)
    ground.broker.redis.zadd(k.leases, {incarnation: lease})
    ground.scripts.set(NOW_MS + jump_ms)
    ground.sweep()
    ground.beat()
    record = ground.broker.store.dataset()
    assert record is not None
    (loss,) = record.losses
    assert loss.kind == "rewound"
    assert 0 < loss.lost_ms < 60_000
