"""A signal's handler may need Redis in the middle of a command of the same thread."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import redis

from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.command_connection import CommandConnection
from tests.support.eventually import eventually


def test_a_command_in_the_middle_of_another_neither_waits_for_it_nor_takes_its_reply(redis_url: str) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    wire = CommandConnection(pool)
    connection = wire.connection
    read_response = connection.read_response
    inner: list[bytes] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        connection.read_response = read_response
        inner.append(wire.call("ECHO", "inner"))
        return read_response(*args, **options)

    connection.read_response = interrupted
    assert wire.call("ECHO", "outer") == b"outer"
    assert inner == [b"inner"]
    assert wire.call("ECHO", "later") == b"later"
    pool.disconnect()


def test_a_number_from_another_connection_than_the_run_of_the_server_names_none(redis_url: str) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    wire = CommandConnection(pool)
    wire.connection.disconnect()
    call: Any = wire.call

    def broken(*command: str) -> Any:
        if command == ("CLIENT", "ID"):
            wire.connection.disconnect()
        return call(*command)

    wire.call = broken  # type: ignore[method-assign]
    assert wire.client() == ""
    pool.disconnect()


def test_what_is_posted_in_the_middle_of_a_post_is_sent_too(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    ack_pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group="g")
    collect = ack_pipeline._posted.collect_acks

    def interrupted() -> None:
        monkeypatch.setattr(ack_pipeline._posted, "collect_acks", collect)
        ack_pipeline.command("SET", "inner", "1")
        collect()

    monkeypatch.setattr(ack_pipeline._posted, "collect_acks", interrupted)
    ack_pipeline.command("SET", "outer", "1")
    assert ack_pipeline.close(wait_s=5)
    with redis.Redis.from_url(redis_url) as client:
        assert client.mget("inner", "outer") == [b"1", b"1"]
    pool.disconnect()


def test_a_child_forked_while_a_thread_waits_for_redis_has_a_lock_of_its_own(redis_url: str) -> None:
    """Regression: whoever held the lock is not there any more in the child, which waited for it for ever."""
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    wire = CommandConnection(pool)
    # redis-py's pool has a lock too, while it opens a connection.
    wire.call("PING")
    asked = threading.Thread(target=wire.call, args=("BLPOP", "test:go", 30))
    asked.start()
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.info("clients")["blocked_clients"])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Nothing of the tests' may run here, whatever happens.
        signal.alarm(10)
        try:
            os.write(write, wire.call("ECHO", "child"))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert said.read() == b"child"
    os.waitpid(pid, 0)
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("test:go", "1")
    asked.join(10)
    assert not asked.is_alive(), "the parent's connection is the parent's still"
    assert wire.call("ECHO", "parent") == b"parent"
    pool.disconnect()
