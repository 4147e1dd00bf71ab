"""A mark of execution that has left its process arrives, whatever was on its way before, and whoever else waits."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis

from orchestrator.transport.redis import ack_pipeline
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.cork import Cork
from orchestrator.transport.redis.readable import is_readable
from tests.support.eventually import eventually

#: Keeps Redis busy for a few milliseconds.
_SLOW = "local n = 0 for i = 1, 1000000 do n = n + i end return n"

#: Marks while Redis is busy with what was sent before and an answer lies unread, and dies at once.
_CHILD = f"""
import os, select, signal, sys
import redis
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.posted_commands import PostedCommand
from orchestrator.transport.redis.cork import Cork

pipeline = AckPipeline(redis.ConnectionPool.from_url(sys.argv[1]), flush_s=3600, flush_count=64, group="g")
pipeline._post(PostedCommand(None, ("SET", "first", 1), None))
poll = select.poll()
poll.register(pipeline._commands.connection._sock, select.POLLIN)
poll.poll()
pipeline._post(PostedCommand(None, ("EVAL", {_SLOW!r}, 0), None))
# As if the first answer had come a moment later.
answers, looks = Cork.answers, []
Cork.answers = lambda self: answers(self) if looks else looks.append(1) or []
assert pipeline.command(*sys.argv[2:])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_mark_arrives_although_its_process_is_killed_with_answers_unread(redis_url: str) -> None:
    """Regression: the kernel reset the connection, and Redis read no further: a death was nobody's."""
    with redis.Redis.from_url(redis_url) as client:
        for mark in range(3):
            child = [sys.executable, "-c", _CHILD, redis_url, "SET", "marked", str(mark)]
            done = subprocess.run(child, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == -signal.SIGKILL, done.stderr
            eventually(lambda: client.get("marked") == str(mark).encode())  # noqa: B023 - called at once


def test_a_mark_is_sent_while_another_thread_waits_for_redis(
    pipeline: AckPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was left to the one who waited, and what it marks began without it."""
    waits = threading.Event()

    def seen(connection: Any, wait_s: float) -> bool:
        waits.set()
        return is_readable(connection, wait_s)

    monkeypatch.setattr(ack_pipeline, "is_readable", seen)
    with redis.Redis.from_url(redis_url) as client:
        pipeline.command("BLPOP", "never", 30)
        waiter = threading.Thread(target=pipeline.flush, kwargs={"wait_s": 30})
        waiter.start()
        assert waits.wait(20)
        assert pipeline.command("SET", "marked", 1)
        client.rpush("never", "ever")
        eventually(lambda: client.get("marked") == b"1")
        waiter.join(timeout=20)
        assert not waiter.is_alive()


def test_a_mark_waits_for_its_turn_however_long_another_takes_to_send(pipeline: AckPipeline, redis_url: str) -> None:
    """Regression: a thread that a busy machine stopped for 50 ms while it sent had the next message begin unmarked."""
    results: list[bool] = []
    marker = threading.Thread(target=lambda: results.append(pipeline.command("SET", "marked", 1)))
    with pipeline._send_lock:
        marker.start()
        marker.join(timeout=0.3)
        assert marker.is_alive()
    marker.join(timeout=20)
    assert results == [True]
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.get("marked") == b"1")


def test_a_slow_redis_keeps_one_mark_waiting_and_not_each(
    pipeline: AckPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def in_vain(_: Cork, wait_s: float) -> bool:
        waits.append(wait_s)
        return False

    monkeypatch.setattr(Cork, "await_answer", in_vain)
    pipeline.command("BLPOP", "never", 30)
    for mark in range(5):
        assert pipeline.command("RPUSH", "marks", mark)
    assert len(waits) == 1
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("never", "ever")
        eventually(lambda: client.llen("marks") == 5)
    monkeypatch.undo()
    assert pipeline.flush(wait_s=5)
    assert not pipeline._is_slow


@pytest.mark.parametrize("far", ["by the kernel", "by its answers"])
def test_no_mark_waits_for_a_server_that_is_far_away(
    pipeline: AckPipeline, redis_url: str, monkeypatch: pytest.MonkeyPatch, far: str
) -> None:
    """A message would take a round trip longer."""
    pipeline.command("PING")
    assert pipeline.flush(wait_s=5)
    cork = pipeline._cork
    assert cork is not None
    assert cork.is_near
    if far == "by the kernel":
        cork.is_near = False
    else:
        pipeline._round_trip_s = 0.01
    monkeypatch.setattr(Cork, "await_answer", lambda *_: pytest.fail("it waits"))
    pipeline.command("BLPOP", "never", 30)
    for mark in range(5):
        assert pipeline.command("RPUSH", "marks", mark)
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("never", "ever")
        eventually(lambda: client.llen("marks") == 5)


def test_a_connection_through_a_slow_proxy_is_found_to_be_far_away(
    pipeline: AckPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 0.5, 1.0, 1.4, 2.0, 2.3])
    monkeypatch.setattr(ack_pipeline, "perf_counter", lambda: next(seconds))
    pipeline.command("PING")
    assert pipeline._round_trip_s == pytest.approx(0.3)


def test_one_slow_answer_of_a_server_that_is_near_does_not_count(
    pipeline: AckPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 0.5, 1.0, 1.001])
    monkeypatch.setattr(ack_pipeline, "perf_counter", lambda: next(seconds))
    pipeline.command("PING")
    assert pipeline._round_trip_s == pytest.approx(0.001)
