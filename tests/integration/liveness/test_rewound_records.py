"""A heartbeat reports what has changed since the last one, which Redis may have lost since."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.transport.liveness.heartbeat import Heartbeat
from orchestrator.transport.redis.command_connection import CommandConnection
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually


def test_what_redis_has_lost_of_a_record_is_reported_again(redis_url: str) -> None:
    """Regression: a mailbox reported shortly before a crash of Redis was missing from the record for good."""
    broker = BareBroker(redis_url)
    store = broker.store
    options = replace(store.options, heart=False, block_s=0.0001, stuck_s=0.001)
    heartbeat = Heartbeat(CommandConnection(store.pool), store.keys, options, store.broker)
    heartbeat.register()
    record = store.keys.incarnation(heartbeat.incarnation)
    kept: Any = broker.redis.hgetall(record)

    def beat() -> None:
        assert heartbeat.beat([], ["q"], lambda: True) is not None

    def is_reported() -> bool:
        beat()
        fields: Any = broker.redis.hgetall(record)
        return fields["queues"] == '["q"]' and bool(broker.redis.zscore(store.keys.not_polling, heartbeat.incarnation))

    def is_older() -> bool:
        beat()
        return int(broker.redis.hget(record, "age_ms")) > 0

    eventually(is_older)
    eventually(is_reported)
    broker.redis.delete(record, store.keys.not_polling)
    broker.redis.hset(record, mapping=kept)
    eventually(is_reported)
    broker.close()
