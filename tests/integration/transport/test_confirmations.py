"""Who waits for confirmation is not told of one that Redis did not give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator.transport.redis import ack_pipeline as module
from orchestrator.transport.redis.ack_pipeline import AckPipeline


@pytest.fixture
def pipeline(redis_url: str) -> Iterator[AckPipeline]:
    """One that sends nothing by itself."""
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    pipeline = AckPipeline(pool, flush_s=3600, flush_count=64, group="g")
    yield pipeline
    pipeline.close(wait_s=1)
    pool.disconnect()


def test_what_redis_refuses_is_not_confirmed(pipeline: AckPipeline, redis_url: str) -> None:
    """Regression: a handled message could be requeued, because its refused settlement was taken for a confirmed one."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("count", "text")
        pipeline.command("INCR", "count")
        assert not pipeline.flush(wait_s=5)
        client.set("count", "1")
        assert pipeline.flush(wait_s=5)
        assert client.get("count") == b"2"


def test_what_is_given_up_ends_the_wait(pipeline: AckPipeline, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("count", "text")
    pipeline.command("INCR", "count")
    answers = [pipeline.flush(wait_s=5) for _ in range(module._REFUSALS)]
    assert (answers[0], answers[-1], pipeline.unsent) == (False, True, 0)


def test_what_was_refused_for_want_of_its_script_is_sent_again_at_once(pipeline: AckPipeline, redis_url: str) -> None:
    """Regression: a requeue was taken for confirmed, and what is claimed next overtook it."""
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create("stream", "g", mkstream=True)
        pipeline.command("PING")
        assert pipeline.flush(wait_s=5)
        client.script_flush()
        client.xadd("stream", {"body": "x"}, id="1-1")
        client.xreadgroup("g", "reader", {"stream": ">"})
        pipeline.ack("stream", "ledger", "handled", "1-1")
        assert pipeline.flush(wait_s=5)
        assert client.xpending("stream", "g")["pending"] == 0
