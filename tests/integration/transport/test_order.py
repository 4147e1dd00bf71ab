"""In which order, and how many at a time, a consumer gets its messages: as on kombu's own Redis transport."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue

from tests.support.bare_broker import kombu_connection
from tests.support.eventually import eventually

QUEUE = Queue("ordered", routing_key="ordered")


def publish(connection: Connection, *bodies: str, queue: Queue = QUEUE, **options: Any) -> None:
    with connection.channel() as channel:
        producer = Producer(channel, serializer="json")
        for body in bodies:
            producer.publish(body, exchange="", routing_key=queue.name, declare=[queue], **options)


def test_draining_by_hand_delivers_one_message_a_call(connection: Connection) -> None:
    publish(connection, "a", "b", "c")
    got: list[str] = []
    with connection.channel() as channel:
        consumer = Consumer(channel, [QUEUE], accept=["json"], no_ack=True)
        consumer.register_callback(lambda body, _message: got.append(body))
        with consumer:
            for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
                connection.drain_events(timeout=5)
                assert got == expected
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.1)


def test_a_message_that_comes_back_is_the_next_of_its_own_priority(connection: Connection) -> None:
    """Regression: what came back went before more urgent messages."""
    publish(connection, "low 1", "low 2", priority=6)
    publish(connection, "middle", priority=3)
    got: list[Any] = []
    with connection.channel() as channel:
        consumer = Consumer(channel, [QUEUE], accept=["json"])
        consumer.register_callback(lambda _body, message: got.append(message))
        with consumer:
            for _ in range(3):
                connection.drain_events(timeout=5)
            first, got[:] = list(got), []
            for message in first:
                message.requeue()
            publish(connection, "low 3", priority=6)
            publish(connection, "urgent", priority=0)
            for _ in range(5):
                connection.drain_events(timeout=5)
    assert [message.payload for message in got] == ["urgent", "middle", "low 1", "low 2", "low 3"]
    assert [bool(message.delivery_info.get("redelivered")) for message in got] == [False, True, True, True, False]


def test_getting_one_message_does_not_disturb_what_is_being_consumed(connection: Connection) -> None:
    """Regression: a get on a channel that also consumes returned another queue's message."""
    other = Queue("other", routing_key="other")
    publish(connection, "a", "b")
    publish(connection, "x", queue=other)
    got: list[str] = []
    with connection.channel() as channel:
        consumer = Consumer(channel, [QUEUE], accept=["json"], no_ack=True)
        consumer.register_callback(lambda body, _message: got.append(body))
        with consumer:
            connection.drain_events(timeout=5)
            # "b" has come with "a" and waits here; then nothing waits, and a read sleeps in Redis.
            assert other(channel).get(no_ack=True).payload == "x"
            connection.drain_events(timeout=5)
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.1)
            publish(connection, "y", queue=other)
            assert other(channel).get(no_ack=True).payload == "y"
            publish(connection, "c")
            connection.drain_events(timeout=5)
    assert got == ["a", "b", "c"]


def test_several_consumers_of_one_queue_share_its_messages(redis_url: str, connection: Connection) -> None:
    publish(connection, *"abcdef")
    got: dict[int, list[str]] = {0: [], 1: []}
    with kombu_connection(redis_url) as second:
        pair = (connection, second)
        for number, each in enumerate(pair):
            consumer = each.Consumer([QUEUE], accept=["json"], channel=each.channel())
            consumer.qos(prefetch_count=1)
            consumer.register_callback(lambda body, _message, n=number: got[n].append(body))
            consumer.register_callback(lambda _body, message: message.ack())
            consumer.consume()

        def all_there() -> bool:
            for each in pair:
                try:
                    each.drain_events(timeout=0.05)
                except TimeoutError:
                    continue
            return len(got[0]) + len(got[1]) == 6

        eventually(all_there)
    assert sorted(got[0] + got[1]) == list("abcdef")
    assert got[0]
    assert got[1]


@pytest.mark.parametrize("count", [2, 6])
def test_what_a_closing_channel_requeues_keeps_its_order(connection: Connection, count: int) -> None:
    """Regression: what it had not delivered yet came before what it had."""
    publish(connection, *[str(n) for n in range(count)])
    got: list[Any] = []
    channel = connection.channel()
    consumer = Consumer(channel, [QUEUE], accept=["json"])
    consumer.register_callback(lambda body, _message: got.append(body))
    consumer.consume()
    connection.drain_events(timeout=5)
    assert got == ["0"]
    channel.close()
    got.clear()
    with connection.channel() as another:
        consumer = Consumer(another, [QUEUE], accept=["json"])
        consumer.register_callback(lambda body, _message: got.append(body))
        with consumer:
            for _ in range(count):
                connection.drain_events(timeout=5)
    assert got == [str(n) for n in range(count)]
