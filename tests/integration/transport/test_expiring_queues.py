"""Queues with ``x-expires``: gone once nobody has used them for that long, and not a moment before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Producer, Queue

from orchestrator.core.keys import Keys
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
    queue = Queue("brief", routing_key="brief", expires=2.0)
    for priority in (0, 9):
        put(connection, queue, priority=priority)
    put(connection, queue, headers={"eta": "2999-01-01T00:00:00+00:00"})
    for level in (0, 9):
        assert 0 < broker.redis.pttl(KEYS.stream("brief", level)) <= 2000
    due_ms = broker.redis.zrange(KEYS.delayed("brief"), 0, 0, withscores=True)[0][1]
    for key in (KEYS.delayed("brief"), KEYS.delayed_bodies("brief")):
        # Nothing scheduled is lost before it was due.
        assert broker.redis.time()[0] * 1000 + broker.redis.pttl(key) > due_ms - 1000
        broker.redis.pexpire(key, 1)
    eventually(lambda: not broker.redis.keys("orc:*brief*"))


def test_asking_it_for_messages_one_by_one_is_use_and_no_more(connection: Connection, broker: BareBroker) -> None:
    """Regression: asking made streams that never expired, and did not prolong those that were there."""
    queue = Queue("asked", routing_key="asked", expires=1.5)(connection.default_channel)
    queue.declare()
    broker.redis.pexpire(KEYS.stream("asked", 0), 1)
    eventually(lambda: not broker.redis.exists(KEYS.stream("asked", 0)))
    assert queue.get(no_ack=True) is None
    assert 0 < broker.redis.pttl(KEYS.stream("asked", 0)) <= 1500
    eventually(lambda: not broker.redis.keys("orc:q:*asked*"))


def test_putting_something_into_it_begins_its_time_anew(connection: Connection, broker: BareBroker) -> None:
    queue = Queue("used", routing_key="used", expires=30)
    put(connection, queue)
    broker.redis.pexpire(KEYS.stream("used", 0), 5_000)
    put(connection, queue)
    assert broker.redis.pttl(KEYS.stream("used", 0)) > 25_000
    # A queue with a time to live is somebody's reply queue, and is not accounted for.
    assert not broker.redis.exists(KEYS.ledger("used"))


def test_a_queue_lives_as_long_as_somebody_consumes_from_it(connection: Connection, broker: BareBroker) -> None:
    """Regression: the streams expired under their consumer, and what it held with them."""
    queue = Queue("consumed", routing_key="consumed", expires=0.3)
    put(connection, queue)
    got: list[Any] = []
    consumer = connection.Consumer([queue], channel=connection.channel())
    consumer.register_callback(lambda _body, message: got.append(message))
    with consumer:
        began = broker.redis.time()

        def a_second_later() -> bool:
            try:
                connection.drain_events(timeout=0.05)
            except TimeoutError:
                assert broker.redis.exists(KEYS.stream("consumed", 0))
            return bool(broker.redis.time()[0] > began[0] + 1)

        eventually(a_second_later)
        assert broker.redis.xpending(KEYS.stream("consumed", 0), "workers")["pending"] == 1
        got[0].ack()
        eventually(lambda: broker.redis.xlen(KEYS.stream("consumed", 0)) == 0)
    eventually(lambda: not broker.redis.keys("orc:q:*consumed*"))


def test_a_late_reply_to_a_control_command_leaves_nothing(connection: Connection, broker: BareBroker) -> None:
    """Regression: it made a mailbox that lived for ever, and was on the ledger as pending."""
    channel = connection.default_channel
    replies = Queue("a1.reply.celery.pidbox", "reply.celery.pidbox", routing_key="a1", expires=1.5, auto_delete=True)
    replies(channel).declare()

    def reply() -> None:
        with connection.clone() as workers:
            Producer(workers.default_channel).publish({"pong": 1}, exchange="reply.celery.pidbox", routing_key="a1")

    reply()
    assert [broker.redis.xlen(KEYS.stream(replies.name, level)) for level in (0, 3, 6, 9)].count(1) == 1
    eventually(lambda: not broker.redis.keys("orc:q:*a1.reply*"))
    reply()
    assert broker.redis.keys("orc:*a1.reply*") == []
    assert not broker.redis.sismember(KEYS.queues, replies.name)
