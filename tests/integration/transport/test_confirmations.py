"""Who waits for confirmation is not told of one that Redis did not give."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from orchestrator.transport.redis import ack_pipeline as module
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.posted_commands import PostedCommand


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
        assert pipeline._posted.deferred
        assert pipeline.is_unconfirmed("stream", "5-1")
        pipeline._posted.requeue_deferred()
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


def test_an_answer_is_noted_before_it_counts_as_confirmed(pipeline: AckPipeline) -> None:
    """Regression: a thread that waited for the confirmation could go on before the answer was noted."""
    counted: list[bool] = []
    ping = PostedCommand(None, ("PING",), lambda _: counted.append(ping.is_answered))
    pipeline._post(ping)
    assert pipeline.flush(wait_s=5)
    assert counted == [False]
    assert ping.is_answered


def test_only_the_connection_whose_silence_was_measured_is_given_up(
    pipeline: AckPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: one that had just been opened was closed, with a mark on it."""

    def broken_meanwhile(_: float) -> bool:
        pipeline._begin_anew()
        pipeline.command("SET", "mark", 1)
        return False

    pipeline.command("SET", "first", 1)
    monkeypatch.setattr(pipeline, "_flush_and_wait", broken_meanwhile)
    pipeline._await_silent_server()
    assert pipeline._loaded_on is not None
    monkeypatch.undo()
    assert pipeline.flush(wait_s=5)


def test_what_is_posted_after_a_close_that_timed_out_gets_its_own_answer(pipeline: AckPipeline, redis_url: str) -> None:
    """Regression: it got the answer to what had not been answered before."""
    first: list[Any] = []
    second: list[Any] = []
    with redis.Redis.from_url(redis_url) as client:
        pipeline.command("BLPOP", "never", 30, on_reply=first.append)
        assert not pipeline.close(wait_s=0.1)
        pipeline.command("INCR", "count", on_reply=second.append)
        client.rpush("never", "ever", "ever")
        assert pipeline.flush(wait_s=5)
    assert (first, second, pipeline.unsent) == ([[b"never", b"ever"]], [1], 0)
