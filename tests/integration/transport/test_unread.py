"""What Redis has given out and nobody has read yet is neither lost nor anybody else's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from kombu import Connection, Message, Producer, Queue

from orchestrator.core.keys import Keys
from orchestrator.transport.channel import Channel
from orchestrator.transport.liveness.incarnation import Incarnation
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.redis.readable import is_readable
from tests.support.bare_broker import BareBroker, kombu_connection
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

KEYS = Keys()
BOX = Queue("box", routing_key="box")


class Reader:
    """A consumer with a connection of its own; all readers here are one holder."""

    def __init__(self, url: str) -> None:
        # It sleeps for longer than any test takes: that nothing came within a second is an answer, too.
        self._context = kombu_connection(url, polling_interval=60, block_s=60, stuck_s=200)
        self.connection: Connection = self._context.__enter__()
        self.taken: list[object] = []
        self.channel: Channel = self.connection.channel()
        self.connection.Consumer(BOX, callbacks=[self._take], channel=self.channel).consume()

    def _take(self, body: object, message: Message) -> None:
        self.taken.append(body)
        message.ack()

    @property
    def holder(self) -> Incarnation:
        assert self.channel.settler.holder is not None
        return self.channel.settler.holder

    def look(self) -> list[object]:
        """One turn of the event loop, which asks for messages and takes in what has come; all that has come so far."""
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=0.05)
        return self.taken

    @property
    def has_unread(self) -> bool:
        return is_readable(self.channel.client.connection, 0)

    def falls_asleep(self, broker: BareBroker) -> bool:
        """Let it go on until it sleeps in Redis; returns whether it does."""
        assert self.look() == []
        host, port = self.channel.client.connection._sock.getsockname()
        (own,) = [one for one in broker.redis.client_list() if one["addr"] == f"{host}:{port}"]
        return own["cmd"] == "xreadgroup" and "b" in own["flags"]

    def close(self) -> None:
        self._context.__exit__(None, None, None)


@pytest.fixture
def readers(redis_url: str, broker: BareBroker) -> Iterator[list[Reader]]:
    """Two that wait for a message, asleep in Redis."""
    readers = [Reader(redis_url), Reader(redis_url)]
    assert readers[0].holder is readers[1].holder
    for reader in readers:
        eventually(partial(reader.falls_asleep, broker))
    yield readers
    for reader in readers:
        reader.close()
    PROCESS_INCARNATIONS.leave_all()


def publish(url: str, body: object) -> None:
    with kombu_connection(url) as connection:
        Producer(connection.default_channel, serializer="json").publish(body, routing_key="box")


def served(readers: list[Reader]) -> tuple[Reader, Reader]:
    """Who has the message on its socket, and the other one."""
    found = eventually(lambda: [reader for reader in readers if reader.has_unread])
    return found[0], readers[1 - readers.index(found[0])]


def test_an_answer_that_is_read_late_is_not_given_back(
    redis_url: str, broker: BareBroker, readers: list[Reader]
) -> None:
    """Regression: a worker that was busy for long had its message run twice."""
    publish(redis_url, "once")
    who, _ = served(readers)
    who.holder.requeue_unreceived(0)
    assert (broker.ledger("box").held, broker.ledger("box").redelivered) == (1, 0)
    eventually(lambda: who.look() == ["once"])
    eventually(lambda: broker.ledger("box").handled == 1)
    assert (broker.ledger("box").pending, broker.ledger("box").duplicated) == (0, 0)


def test_a_channel_that_closes_takes_nothing_from_another(
    redis_url: str, broker: BareBroker, readers: list[Reader]
) -> None:
    publish(redis_url, "once")
    who, other = served(readers)
    other.channel.close()
    assert (broker.ledger("box").held, broker.ledger("box").redelivered) == (1, 0)
    eventually(lambda: who.look() == ["once"])


def test_a_channel_that_closes_requeues_its_own(redis_url: str, broker: BareBroker, readers: list[Reader]) -> None:
    publish(redis_url, "once")
    who, other = served(readers)
    other.channel.close()
    who.channel.close()
    eventually(lambda: broker.ledger("box").ready == 1)
    assert (broker.ledger("box").held, broker.ledger("box").redelivered) == (0, 1)


def test_a_queue_whose_announcement_failed_is_announced_again(
    broker: BareBroker, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a death did not find what had been claimed there."""
    reader = readers[0]

    def fails() -> int:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(reader.holder, "_beat", fails)
        with pytest.raises(ConnectionError):
            reader.holder.attach(reader.channel, "late")
    reader.holder.attach(reader.channel, "late")
    assert '"late"' in broker.redis.hget(KEYS.incarnation(reader.holder.id), "queues")


def test_what_has_ended_and_waits_for_a_broken_key_is_not_requeued(
    redis_url: str, broker: BareBroker, readers: list[Reader]
) -> None:
    """Regression: once the key was right again, what was handled could be requeued as lost, and ran twice."""
    publish(redis_url, "once")
    who, other = served(readers)
    # What it might still read is not taken for lost.
    other.channel.close()
    stream = KEYS.stream("box", 0)
    pipeline = who.holder.ack_pipeline
    broker.redis.rename(stream, "kept")
    broker.redis.set(stream, "junk")
    eventually(lambda: who.look() == ["once"])
    eventually(lambda: pipeline._posted.deferred)
    pipeline._posted.repeat_at += 3600
    broker.redis.rename("kept", stream)
    who.holder.requeue_unreceived(0, reader=who.channel)
    assert (broker.ledger("box").held, broker.ledger("box").redelivered) == (1, 0)
    pipeline._posted.repeat_at = 0
    pipeline._wake.set()
    eventually(lambda: broker.ledger("box").handled == 1)


_FORKS = """
import os, sys
from kombu import Connection, Queue
connection = Connection(sys.argv[1], transport="orchestrator.transport:Transport")
channel = connection.channel()
connection.Consumer(Queue("box"), channel=channel).consume()
pid = os.fork()
if not pid:
    sys.exit(0)
os.waitpid(pid, 0)
holder = channel.settler.holder
print(holder.left, channel.client.zscore(holder.keys.leases, holder.id) is not None, flush=True)
"""


def test_a_fork_does_not_take_its_parents_leave(redis_url: str) -> None:
    """Regression: a forked child that ended as interpreters do had its parent fenced."""
    said = subprocess.run(
        [sys.executable, "-c", _FORKS, redis_url], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "False True\n", said.stderr
