"""A script that Redis has is not loaded again: each one that is loaded is written to the append-only file, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import redis

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.scripts import sha
from tests.support.eventually import eventually

#: Marks once, and dies as soon as Redis has answered anything, which it has not read.
_KILLED_AT_THE_FIRST_REPLY = """
import os, select, signal, sys
import redis
from orchestrator.transport.redis.ack_pipeline import AckPipeline

pipeline = AckPipeline(redis.ConnectionPool.from_url(sys.argv[1]), flush_s=3600, flush_count=64, group="g")
pipeline.command("SET", "marked", "1")
select.select([pipeline._commands.connection._sock], [], [])
os.kill(os.getpid(), signal.SIGKILL)
"""


def _settle_some(redis_url: str) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group="g")
    pipeline.command("SET", "marks", "1")
    pipeline.close(wait_s=5)
    pool.disconnect()


def test_only_the_first_worker_loads_the_scripts(own_redis_server: EmbeddedServer) -> None:
    url = own_redis_server.url
    with redis.Redis.from_url(url, decode_responses=True) as client:
        with client.monitor() as monitor:
            for _ in range(3):
                _settle_some(url)
            client.echo("done")
            loaded = 0
            for seen in monitor.listen():
                if seen["command"] == "ECHO done":
                    break
                loaded += seen["command"].startswith("SCRIPT LOAD")
        assert loaded == 5
        assert client.script_exists(sha("settle")) == [True]


def test_the_first_mark_of_a_worker_that_is_killed_with_replies_unread_arrives(redis_url: str) -> None:
    """Regression: it was sent behind the scripts, of which Redis read no further when the connection was reset."""
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        child = [sys.executable, "-c", _KILLED_AT_THE_FIRST_REPLY, redis_url]
        done = subprocess.run(child, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        eventually(lambda: client.get("marked") == b"1")


def test_a_worker_that_may_not_ask_for_them_loads_them(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.script_flush()
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-script", "+script|load")
        _, _, place = redis_url.rpartition("@")
        try:
            _settle_some(f"redis://narrow:pw@{place}")
        finally:
            client.execute_command("ACL", "DELUSER", "narrow")
        assert client.script_exists(sha("settle")) == [True]


def test_the_replies_to_acknowledgements_are_not_taken_for_the_answer(redis_url: str) -> None:
    """Regression: acknowledgements were sent first, and their reply was read as which scripts there are."""
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    pipeline = AckPipeline(pool, flush_s=3600, flush_count=1, group="g")
    try:
        for entry in range(5):
            pipeline.ack("orc:q:0:a", "orc:ledger:a", "handled", f"1-{entry}")
            pipeline.command("RPUSH", "marks", entry)
        assert pipeline.flush(wait_s=5)
        with redis.Redis.from_url(redis_url) as client:
            assert client.lrange("marks", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        pipeline.close(wait_s=5)
        pool.disconnect()
