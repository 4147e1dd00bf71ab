"""Marks that the kernel holds back for a moment arrive, whatever becomes of the process that sent them."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.exceptions import BusyLoadingError

from orchestrator.transport.redis import ack_pipeline as module
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from orchestrator.transport.redis.cork import Cork
from tests.support.eventually import eventually

#: The end of a message that nobody holds.
SETTLE = commands.settle("stream", "ledger", "handled", ["1-1"])

#: Marks until the kernel has held back three, unless that must not be, and dies at once.
_CHILD = """
import json, os, signal, sys
import redis
from redis.exceptions import BusyLoadingError
from orchestrator.transport.redis import ack_pipeline as module

url, reads = sys.argv[1:]
module.monotonic = lambda: 0.0
if reads == "unread":
    module.AckPipeline._read_available = lambda self: None
    module.AckPipeline._await_earlier_answers = lambda self, cork: None
pipeline = module.AckPipeline(redis.ConnectionPool.from_url(url), flush_s=3600, flush_count=64, group="g")
observer = redis.Redis.from_url(url)
marks = 0
# A cork that holds back nothing, or does not keep what it holds back, must not keep this process for ever.
for _ in range(50):
    while (pipeline._cork is None or pipeline._cork.held < 3) and marks < (10_000 if reads == "read" else 20):
        pipeline.command("RPUSH", "marks", marks)
        marks += 1
    arrived = observer.llen("marks")
    if reads == "unread" or arrived == marks - 3:
        break
    # The kernel keeps them for 200 ms, which have passed; once more.
    pipeline.flush()
print(json.dumps([marks, pipeline._cork.held, arrived]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def ack_pipeline(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AckPipeline]:
    """One that holds back whatever it may: no time passes for it, and nobody pushes by himself."""
    monkeypatch.setattr(module, "monotonic", lambda: 0.0)
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    ack_pipeline = AckPipeline(pool, flush_s=3600, flush_count=64, group="g")
    yield ack_pipeline
    monkeypatch.undo()
    ack_pipeline.close(wait_s=5)
    pool.disconnect()


def _hold(ack_pipeline: AckPipeline, commands: int = 1) -> Cork:
    """Sends until so many commands are held back."""
    while ack_pipeline._cork is None or ack_pipeline._cork.held < commands:
        ack_pipeline.command("RPUSH", "marks", "1")
    return ack_pipeline._cork


@pytest.mark.parametrize("reads", ["read", "unread"])
def test_what_was_sent_arrives_although_the_process_is_killed_at_once(redis_url: str, reads: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, redis_url, reads], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    sent, held, arrived_before = json.loads(child.stdout)
    with redis.Redis.from_url(redis_url) as client:
        if reads == "read":
            assert held == 3
            assert arrived_before == sent - 3
        else:
            # The kernel would throw it away, with answers unread.
            assert held == 0
        eventually(lambda: client.llen("marks") == sent)
        assert client.lrange("marks", 0, -1) == [str(mark).encode() for mark in range(sent)]


def test_what_is_held_back_leaves_in_time_when_nothing_follows(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    with monkeypatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: 0.0)
        ack_pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group="g")
        cork = _hold(ack_pipeline)
        with redis.Redis.from_url(redis_url) as client:
            client.delete("marks")
            ack_pipeline.command("SET", "last", "1")
            eventually(lambda: client.get("last") == b"1")
        eventually(lambda: ack_pipeline.unsent == 0)
        assert cork.held == 0
    assert ack_pipeline.close(wait_s=5)
    pool.disconnect()


def test_who_waits_for_confirmation_gets_it(ack_pipeline: AckPipeline, redis_url: str) -> None:
    cork = _hold(ack_pipeline)
    assert ack_pipeline.flush(wait_s=5)
    assert (ack_pipeline.unsent, cork.held) == (0, 0)


def test_what_must_be_sent_now_takes_it_along(ack_pipeline: AckPipeline, redis_url: str) -> None:
    cork = _hold(ack_pipeline, 3)
    ack_pipeline.post(*SETTLE)
    assert cork.held == 0


def test_no_more_is_held_back_than_the_kernel_keeps(ack_pipeline: AckPipeline) -> None:
    cork = _hold(ack_pipeline)
    for _ in range(300):
        ack_pipeline.command("SET", "large", "x" * 6000)
        assert cork.held <= 3
    for _ in range(300):
        ack_pipeline.command("SET", "small", "x")
        assert cork.held <= 32


def test_nothing_is_held_back_where_the_next_may_be_long_in_coming(
    ack_pipeline: AckPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cork = _hold(ack_pipeline)
    now_s = 0.0
    for _ in range(50):
        now_s += 0.01
        monkeypatch.setattr(module, "monotonic", lambda now_s=now_s: now_s)
        ack_pipeline.command("SET", "slow", "1")
        assert cork.held == 0


def test_nothing_is_held_back_for_long_however_much_follows(
    ack_pipeline: AckPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cork = _hold(ack_pipeline)
    now_s, since_s = 0.0, 0.0
    for _ in range(200):
        before, now_s = cork.held, now_s + 0.001
        monkeypatch.setattr(module, "monotonic", lambda now_s=now_s: now_s)
        ack_pipeline.command("SET", "steady", "1")
        if cork.held == 1 or not cork.held:
            since_s = now_s
        assert cork.held in (0, 1, before + 1)
        assert now_s - since_s <= 0.0051


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_other_sockets_send_at_once(kind: str) -> None:
    near, far = socket.socketpair() if kind == "unix" else (socket.socket(), socket.socket())
    sock = near if kind == "unix" else ssl.create_default_context().wrap_socket(near, server_hostname="nobody")
    cork = Cork(SimpleNamespace(_sock=sock))
    with sock, near, far:
        cork.send(b"once", 1, 0, 0.0)
        assert not cork.send(b"again", 1, 0, 0.0)
        assert cork.answers() == []


class _Interrupted:
    """A socket on which a signal's handler raises when half is sent, once."""

    def __init__(self, connection: Any) -> None:
        self._sock, self._connection = connection._sock, connection
        connection._sock = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes, *flags: int) -> None:
        self._connection._sock = self._sock
        self._sock.sendall(data[:-5], *flags)
        raise KeyboardInterrupt


@pytest.mark.parametrize("held", [0, 2])
def test_a_send_that_is_interrupted_in_the_middle_is_begun_anew(
    ack_pipeline: AckPipeline, redis_url: str, held: int
) -> None:
    if held:
        _hold(ack_pipeline, held)
    else:
        ack_pipeline.command("SET", "first", "1")
    _Interrupted(ack_pipeline._commands.connection)
    if held:
        # To the pipeline it is no other connection than before.
        assert ack_pipeline._cork is not None
        ack_pipeline._cork.sock = ack_pipeline._commands.connection._sock
    with pytest.raises(KeyboardInterrupt):
        ack_pipeline.command("SET", "second", "1")
    replies: list[Any] = []
    ack_pipeline.post(*SETTLE, replies.append)
    assert ack_pipeline.flush(wait_s=5)
    assert ack_pipeline.unsent == 0
    assert replies == [0]
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("second") == b"1"


def test_what_cannot_be_sent_is_refused_where_it_is_posted_and_stops_nothing(
    ack_pipeline: AckPipeline, redis_url: str
) -> None:
    """Regression: it ended the flusher, and no acknowledgement arrived any more."""
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create("stream", "g", mkstream=True)
        entries = [client.xadd("stream", {"m": "x"}).decode() for _ in range(3)]
        client.xreadgroup("g", "c", {"stream": ">"})
        replies: list[Any] = []
        ack_pipeline.ack("stream", "ledger", "handled", entries[0])
        for soon in (True, False):
            with pytest.raises(UnicodeEncodeError):
                ack_pipeline.post(
                    *commands.settle_with_outcome("stream", "ledger", "orc:outcome:\ud800x", "1-1", "handled", "{}", 1),
                    soon=soon,
                )
        with pytest.raises(UnicodeEncodeError):
            ack_pipeline.command("SET", "\ud800", "1")
        ack_pipeline.ack("stream", "ledger", "dead \ud800", entries[1])
        ack_pipeline.ack("stream", "ledger", "handled", entries[2])
        ack_pipeline.post(*SETTLE, replies.append)
        assert ack_pipeline.flush(wait_s=5)
        assert ack_pipeline.unsent == 0
        assert replies == [0]
        assert client.xpending("stream", "g")["pending"] == 1


def test_the_flusher_goes_on_whatever_a_flush_raises(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    ack_pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group="g")
    send, left = ack_pipeline._send, [3]

    def fail(may_wait: bool) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("some bug")
        send(may_wait)

    monkeypatch.setattr(ack_pipeline, "_send", fail)
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create("stream", "g", mkstream=True)
        entry = client.xadd("stream", {"m": "x"}).decode()
        client.xreadgroup("g", "c", {"stream": ">"})
        ack_pipeline.ack("stream", "ledger", "handled", entry)
        eventually(lambda: client.xlen("stream") == 0)
    eventually(lambda: ack_pipeline.unsent == 0)
    assert ack_pipeline.close(wait_s=5)
    pool.disconnect()


def test_a_server_that_is_still_loading_has_taken_nothing(ack_pipeline: AckPipeline, redis_url: str) -> None:
    cork = _hold(ack_pipeline)
    answers = cork.answers

    def loading() -> list[Any]:
        cork.answers = answers  # type: ignore[method-assign]
        return [BusyLoadingError("Redis is loading the dataset in memory")]

    cork.answers = loading  # type: ignore[method-assign]
    replies: list[Any] = []
    ack_pipeline.post(*SETTLE, replies.append)
    ack_pipeline.command("RPUSH", "twice", "1")
    assert ack_pipeline.flush(wait_s=5)
    assert ack_pipeline.unsent == 0
    assert replies == [0]
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("twice") == 1
