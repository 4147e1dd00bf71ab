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


def test_of_what_is_unconfirmed_the_stream_and_the_whole_id_are_compared(pipeline: AckPipeline) -> None:
    """Regression: a lost claim was left pending because its id was the beginning of another's, or another mailbox's."""
    pipeline.ack("stream", "ledger", "handled", "5-10")
    for _ in range(2):
        assert pipeline.is_unconfirmed("stream", "5-10")
        assert not pipeline.is_unconfirmed("stream", "5-1")
        assert not pipeline.is_unconfirmed("other", "5-10")
        with pipeline._posted.mutex:
            pipeline._posted.collect_acks()


def test_what_is_on_its_way_is_unconfirmed_until_its_answer_has_come(pipeline: AckPipeline, redis_url: str) -> None:
    """Regression: only what waited for a broken key was looked at, though it may be sent again at any moment."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("stream", "junk")
        pipeline.ack("stream", "ledger", "handled", "5-1")
        pipeline.flush()
        assert pipeline.is_unconfirmed("stream", "5-1")
        pipeline.flush(wait_s=5)
        assert pipeline._posted.waiting
        assert pipeline.is_unconfirmed("stream", "5-1")
        pipeline._posted.repeat_what_was_put_off()
        assert pipeline.is_unconfirmed("stream", "5-1")
        client.delete("stream")
        client.xgroup_create("stream", "g", mkstream=True)
        assert pipeline.flush(wait_s=5)
        assert not pipeline.is_unconfirmed("stream", "5-1")


def test_what_is_refused_is_queued_again_before_it_counts_as_answered(
    pipeline: AckPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two nothing knew of it, and a comparison with Redis could requeue what had ended."""
    seen = []
    refused = pipeline._refused

    def look(*args: Any) -> None:
        seen.append(pipeline.is_unconfirmed("stream", "5-1"))
        refused(*args)

    monkeypatch.setattr(pipeline, "_refused", look)
    with redis.Redis.from_url(redis_url) as client:
        client.set("stream", "junk")
        pipeline.ack("stream", "ledger", "handled", "5-1")
        pipeline.flush(wait_s=5)
        client.delete("stream")
    assert seen[-1:] == [True]
