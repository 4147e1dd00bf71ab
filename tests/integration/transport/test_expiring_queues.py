"""Queues with ``x-expires``: gone once nobody has used them for that long, and not a moment before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from kombu import Connection, Producer, Queue

from orchestrator.core.keys import Keys
from orchestrator.transport import channel as channel_module
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

KEYS = Keys()


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    broker = BareBroker(redis_url)
    yield broker
    broker.close()


def put(connection: Connection, queue: Queue, **options: Any) -> None:
    # Who has declared the queue knows that it expires; a connection declares it once.
    Producer(connection.default_channel).publish("x", exchange="", routing_key=queue.name, declare=[queue], **options)


def test_a_queue_that_nobody_consumes_expires_with_every_priority(connection: Connection, broker: BareBroker) -> None:
    """Regression: without a consumer it lived for ever."""
    queue = Queue("brief", routing_key="brief", expires=60)
    for priority in (0, 9):
        put(connection, queue, priority=priority)
    put(connection, queue, headers={"eta": "2999-01-01T00:00:00+00:00"})
    for level in (0, 9):
        assert 0 < broker.redis.pttl(KEYS.stream("brief", level)) <= 60_000
    due_ms = broker.redis.zrange(KEYS.delayed("brief"), 0, 0, withscores=True)[0][1]
    for key in (KEYS.delayed("brief"), KEYS.delayed_bodies("brief")):
        # Nothing scheduled is lost before it was due.
        assert broker.redis.time()[0] * 1000 + broker.redis.pttl(key) > due_ms - 1000
    # Whatever there is of it goes when its time is over.
    for key in broker.redis.keys("orc:*brief*"):
        assert broker.redis.pttl(key) > 0, key
        broker.redis.pexpire(key, 1)
    eventually(lambda: not broker.redis.keys("orc:*brief*"))


def test_asking_it_for_messages_one_by_one_is_use_and_no_more(connection: Connection, broker: BareBroker) -> None:
    """Regression: asking made streams that never expired, and did not prolong those that were there."""
    queue = Queue("asked", routing_key="asked", expires=60)(connection.default_channel)
    queue.declare()
    broker.redis.pexpire(KEYS.stream("asked", 0), 1)
    eventually(lambda: not broker.redis.exists(KEYS.stream("asked", 0)))
    assert queue.get(no_ack=True) is None
    streams = broker.redis.keys("orc:q:*asked*")
    assert KEYS.stream("asked", 0) in streams
    assert all(0 < broker.redis.pttl(stream) <= 60_000 for stream in streams)


def test_putting_something_into_it_begins_its_time_anew(connection: Connection, broker: BareBroker) -> None:
    queue = Queue("used", routing_key="used", expires=30)
    put(connection, queue)
    broker.redis.pexpire(KEYS.stream("used", 0), 5_000)
    put(connection, queue)
    assert broker.redis.pttl(KEYS.stream("used", 0)) > 25_000
    # A queue with a time to live is somebody's reply queue, and is not accounted for.
    assert not broker.redis.exists(KEYS.ledger("used"))


def test_a_queue_lives_as_long_as_somebody_consumes_from_it(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the streams expired under their consumer, and what it held with them."""
    queue, stream = Queue("consumed", routing_key="consumed", expires=60), KEYS.stream("consumed", 0)
    put(connection, queue)
    got: list[Any] = []
    consumer = connection.Consumer([queue], channel=connection.channel())
    consumer.register_callback(lambda _body, message: got.append(message))
    past_s = 0.0
    monkeypatch.setattr(channel_module, "monotonic", lambda: monotonic() + past_s)

    def drained() -> list[Any]:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.05)
        return got

    with consumer:
        eventually(drained)
        for _ in range(3):
            # A third of its time later, which is when it is prolonged.
            broker.redis.pexpire(stream, 40_000)
            past_s += 21
            eventually(lambda: drained() and broker.redis.pttl(stream) > 40_000)
        assert broker.redis.xpending(stream, "workers")["pending"] == 1
        got[0].ack()
        eventually(lambda: broker.redis.xlen(stream) == 0)
    assert all(0 < broker.redis.pttl(key) <= 60_000 for key in broker.redis.keys("orc:q:*consumed*"))


def test_a_late_reply_to_a_control_command_leaves_nothing(connection: Connection, broker: BareBroker) -> None:
    """Regression: it made a mailbox that lived for ever, and was on the ledger as pending."""
    channel = connection.default_channel
    replies = Queue("a1.reply.celery.pidbox", "reply.celery.pidbox", routing_key="a1", expires=60, auto_delete=True)
    replies(channel).declare()

    def reply() -> None:
        with connection.clone() as workers:
            Producer(workers.default_channel).publish({"pong": 1}, exchange="reply.celery.pidbox", routing_key="a1")

    reply()
    assert [broker.redis.xlen(KEYS.stream(replies.name, level)) for level in (0, 3, 6, 9)].count(1) == 1
    for stream in broker.redis.keys("orc:q:*a1.reply*"):
        assert 0 < broker.redis.pttl(stream) <= 60_000
        broker.redis.pexpire(stream, 1)
    eventually(lambda: not broker.redis.keys("orc:q:*a1.reply*"))
    reply()
    assert broker.redis.keys("orc:*a1.reply*") == []
    assert not broker.redis.sismember(KEYS.queues, replies.name)
