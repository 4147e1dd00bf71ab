"""The transport as kombu sees it: channels, consumers, queues, on a real Redis."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue

from orchestrator.telemetry import Event, attach, detach, events
from orchestrator.transport.letter_draft import LetterDraft
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker, kombu_connection
from tests.support.eventually import eventually
from tests.support.kombu_inbox import KEYS, QUEUE, Inbox, publish


def test_publish_claim_ack(connection: Connection, broker: BareBroker) -> None:
    publish(connection, *range(10))
    assert broker.ledger("box").accepted in (0, 10)
    inbox = Inbox(connection)
    assert [m.payload for m in inbox.drain(10)] == list(range(10))
    assert broker.ledger("box").held == 10
    for message in inbox.messages:
        message.ack()
    eventually(lambda: broker.ledger("box").handled == 10)
    assert broker.ledger("box").pending == 0


@pytest.fixture
def dead_lettered() -> Iterator[list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []

    def hear(event: Event) -> None:
        told.append(dict(event.metadata))

    attach(hear, events.DEAD_LETTERED)
    yield told
    detach(hear)


def test_a_rejected_message_is_told_as_one_dead_letter(
    connection: Connection, broker: BareBroker, dead_lettered: list[dict[str, Any]]
) -> None:
    publish(connection, "x", headers={"id": "m1", "task": "some.task"})
    inbox = Inbox(connection)
    (message,) = inbox.drain(1)
    message.reject()
    inbox.channel.basic_reject(message.delivery_tag)
    eventually(lambda: broker.ledger("box").dead == 1)
    assert dead_lettered == [
        {"agent": "box", "message": "some.task", "id": "m1", "reason": "rejected", "error": "", "attempts": 0}
    ]


@pytest.mark.parametrize("how", ["consume", "get"])
def test_an_entry_that_is_no_message_is_told_as_one_dead_letter(
    connection: Connection, broker: BareBroker, dead_lettered: list[dict[str, Any]], how: str
) -> None:
    publish(connection, "good")
    stream = next(stream for stream in broker.store.streams("box") if broker.redis.xlen(stream))
    broker.redis.xadd(stream, {"m": "not json"})
    if how == "consume":
        inbox = Inbox(connection)
        inbox.drain(1)
        inbox.idle()
    else:
        with connection.channel() as channel:
            assert channel.basic_get("box") is not None
            assert channel.basic_get("box") is None
    eventually(lambda: broker.letters())
    (told,) = dead_lettered
    assert told.pop("error").startswith("MalformedEntry: not JSON")
    assert told == {"agent": "box", "message": "", "id": "", "reason": "malformed", "attempts": 0}


@pytest.mark.parametrize(("options", "name"), [({}, "token"), ({"redact": ["pin"]}, "pin")])
def test_a_secret_in_a_dead_letters_error_is_masked_in_the_log(
    redis_url: str, broker: BareBroker, caplog: pytest.LogCaptureFixture, options: dict[str, Any], name: str
) -> None:
    with kombu_connection(redis_url, **options) as connection:
        publish(connection, "x")
        inbox = Inbox(connection)
        (message,) = inbox.drain(1)
        inbox.channel.settler.dead_letter(message.delivery_tag, LetterDraft("x", "ValueError", f"{name}=hunter2"))
        # Who leaves has read what Redis says to all that it was sent.
        PROCESS_INCARNATIONS.leave_all()
    assert f"ValueError: {name}=" in caplog.text
    assert "hunter2" not in caplog.text


def test_no_message_is_ever_only_in_memory(connection: Connection, broker: BareBroker) -> None:
    """Whatever a consumer has been given is pending in Redis until it is settled."""
    publish(connection, *range(50))
    inbox = Inbox(connection, prefetch=7)
    inbox.drain(7)
    inbox.idle()
    assert len(inbox.messages) == 7
    row = broker.ledger("box")
    assert (row.held, row.ready) == (7, 43)


def test_prefetch_is_refilled_as_messages_are_settled(connection: Connection) -> None:
    publish(connection, *range(9))
    inbox = Inbox(connection, prefetch=2)
    for step in range(1, 9):
        inbox.drain(step)[step - 1].ack()
    inbox.drain(9)
    assert [m.payload for m in inbox.messages] == list(range(9))


def test_requeue_comes_back_first_and_is_marked(connection: Connection, broker: BareBroker) -> None:
    publish(connection, *range(5))
    inbox = Inbox(connection, prefetch=1)
    inbox.drain(1)[0].requeue()
    # Giving back is sent without waiting for its answer; the next claim could be there first.
    eventually(lambda: broker.ledger("box").redelivered == 1)
    again = inbox.drain(2)[1]
    assert again.payload == 0
    assert again.delivery_info["redelivered"] is True
    assert broker.ledger("box").redelivered == 1
    assert broker.ledger("box").restarted == 0


def test_reject_is_a_dead_letter_byte_for_byte(connection: Connection, broker: BareBroker) -> None:
    publish(connection, {"a": "ü"})
    raw = broker.redis.xrange(KEYS.stream("box", 0))[0][1]["m"]
    inbox = Inbox(connection)
    inbox.drain(1)[0].reject()
    (letter,) = eventually(broker.letters)
    assert letter["m"] == raw
    assert json.loads(letter["letter"])["reason"] == "rejected"
    eventually(lambda: broker.ledger("box").dead == 1)


def test_closing_returns_what_was_not_settled(redis_url: str, broker: BareBroker) -> None:
    with kombu_connection(redis_url) as connection:
        publish(connection, *range(4))
        inbox = Inbox(connection)
        inbox.drain(4)[0].ack()
    eventually(lambda: broker.ledger("box").ready == 3)
    assert broker.ledger("box").handled == 1
    with kombu_connection(redis_url) as connection:
        assert [m.payload for m in Inbox(connection).drain(3)] == [1, 2, 3]


def test_without_acks_a_message_is_settled_when_delivered(connection: Connection, broker: BareBroker) -> None:
    publish(connection, *range(3))
    Inbox(connection, no_ack=True).drain(3)
    eventually(lambda: broker.ledger("box").pending == 0)
    assert broker.redis.zcard(KEYS.leases) == 0


def test_a_sleeping_read_keeps_no_more_than_the_prefetch_limit(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection, prefetch=1)
    publish(connection, "late", priority=9)
    publish(connection, "soon", priority=0)
    # They came between a claim that found nothing and the read that sleeps.
    inbox.channel.reader.is_empty = True
    inbox.drain(1)
    assert [message.payload for message in inbox.messages] == ["soon"]
    eventually(lambda: (broker.ledger("box").ready, broker.ledger("box").held) == (1, 1))


def test_what_was_read_ahead_without_acks_goes_back(connection: Connection, broker: BareBroker) -> None:
    publish(connection, *range(10))
    inbox = Inbox(connection, no_ack=True)
    inbox.drain(1)
    read = len(inbox.messages)
    inbox.consumer.cancel()
    inbox.channel.close()
    row = broker.ledger("box")
    assert (row.ready, row.held, row.handled) == (10 - read, 0, read)


def test_what_a_reader_without_acks_died_with_is_requeued(connection: Connection, broker: BareBroker) -> None:
    publish(connection, "x")
    stream = KEYS.stream("box", "0")
    broker.redis.sadd(KEYS.queues, "box")
    broker.redis.xgroup_create(stream, "workers", 0)
    broker.redis.xreadgroup("workers", "reader:dead", {stream: ">"})
    broker.redis.xgroup_createconsumer(stream, "workers", "reader:idle")
    k, store = KEYS, broker.store
    assert store.run(*commands.find_orphans(k, store.levels, ["box"], reader_idle_ms=60_000)) == []
    assert broker.ledger("box").held == 1, "it may be about to be read"
    gone = commands.find_orphans(k, store.levels, ["box"], reader_idle_ms=0)
    eventually(lambda: store.run(*gone) == [b"reader:dead"])
    store.sweeper().sweep("test")
    row = broker.ledger("box")
    assert (row.ready, row.held) == (1, 0)
    assert {one["name"] for one in broker.redis.xinfo_consumers(stream, "workers")} == {"reader:dead"}


def test_basic_get(connection: Connection, broker: BareBroker) -> None:
    publish(connection, "x", "y")
    with connection.channel() as channel:
        queue = QUEUE(channel)
        queue.declare()
        first = queue.get()
        assert first.payload == "x"
        first.ack()
        assert queue.get(no_ack=True).payload == "y"
        assert queue.get() is None
        eventually(lambda: broker.ledger("box").handled == 2)


def test_purge_and_length_count_what_waits_but_not_what_is_held(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection, prefetch=2)
    publish(connection, *range(6))
    inbox.drain(2)
    publish(connection, "later", headers={"eta": "2999-01-01T00:00:00+00:00"})
    publish(connection, "low", priority=9)
    with connection.channel() as channel:
        assert QUEUE(channel).queue_declare(passive=True).message_count == 6
        assert QUEUE(channel).purge() == 6
        assert QUEUE(channel).queue_declare(passive=True).message_count == 0
    for message in inbox.messages:
        message.ack()
    eventually(lambda: broker.ledger("box").pending == 0)
    row = broker.ledger("box")
    assert (row.cancelled, row.handled, row.lost) == (6, 2, 0)


def test_topic_exchange_reaches_every_match(connection: Connection, broker: BareBroker) -> None:
    topic = Exchange("topics", type="topic")
    with connection.channel() as channel:
        for name, pattern in (("eu", "*.eu"), ("all", "#"), ("us", "*.us")):
            Queue(name, topic, routing_key=pattern)(channel).declare()
        Producer(channel, serializer="json").publish("x", exchange=topic, routing_key="orders.eu")
    assert {row: broker.ledger(row).ready for row in ("eu", "all", "us")} == {"eu": 1, "all": 1, "us": 0}


def test_the_oldest_makes_room_in_a_bounded_queue(connection: Connection, broker: BareBroker) -> None:
    bounded = Queue("small", Exchange("small"), routing_key="small", queue_arguments={"x-max-length": 2})
    with connection.channel() as channel:
        bounded(channel).declare()
        producer = Producer(channel, serializer="json")
        for number in range(5):
            producer.publish(number, exchange="", routing_key="small")
    row = broker.ledger("small")
    assert (row.accepted, row.ready, row.expired, row.lost) == (5, 2, 3, 0)


def test_deleting_a_queue_settles_what_was_in_it(connection: Connection, broker: BareBroker) -> None:
    with connection.channel() as channel:
        QUEUE(channel).declare()
        publish(connection, *range(3))
        QUEUE(channel).delete()
    row = broker.ledger("box")
    assert (row.accepted, row.cancelled, row.lost) == (3, 3, 0)


def test_a_reply_queue_leaves_nothing_behind(connection: Connection, broker: BareBroker) -> None:
    reply = Queue("reply.1", Exchange("reply"), routing_key="1", expires=10.0, auto_delete=True)
    with connection.channel() as channel:
        bound = reply(channel)
        bound.declare()
        with connection.Consumer(reply, callbacks=[lambda *_: None], no_ack=True):
            Producer(channel, serializer="json").publish("r", exchange="reply", routing_key="1")
            assert not broker.redis.exists(KEYS.ledger("reply.1"))
        bound.delete()
    assert broker.redis.keys("orc:*reply.1*") == []


def test_streams_deleted_under_a_consumer_are_made_again(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    inbox.idle()
    broker.redis.flushall()
    # The lease is gone too: the consumer is fenced, and kombu's users reconnect on that.
    with pytest.raises(connection.connection_errors):
        inbox.drain(1)


def test_key_prefix(redis_url: str, broker: BareBroker) -> None:
    with kombu_connection(redis_url, global_keyprefix="app1:") as connection:
        publish(connection, "x")
        assert [m.payload for m in Inbox(connection).drain(1)] == ["x"]
        keys = [key for key in broker.redis.keys("*") if not key.startswith("app1:")]
        assert keys == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}",
        b'{"properties": 1}',
        b'{"properties": {}, "body": 5}',
        b'{"properties": {"body_encoding": "base64"}, "body": "%%%"}',
        b'{"properties": {"body_encoding": "no-such"}, "body": "x"}',
        b'{"properties": {"delivery_info": []}, "body": "x", "headers": []}',
        b'{"properties": {}, "body": "x", "headers": {"eta": 5}}',
        b"[" * 100_000,
    ],
)
def test_malformed_entries_become_dead_letters_and_disturb_nobody(
    connection: Connection, broker: BareBroker, raw: bytes
) -> None:
    inbox = Inbox(connection)
    publish(connection, "before")
    broker.store.client.xadd(KEYS.stream("box", 0), {b"m": raw})
    publish(connection, "after")

    def good() -> list[Any]:
        inbox.idle()
        return [m.payload for m in inbox.messages if m.content_type == "application/json"]

    eventually(lambda: good() == ["before", "after"])
    # An odd but readable one may be delivered; an unreadable one is dead-lettered.
    assert len(inbox.messages) + len(eventually(lambda: broker.letters() or [{}])) >= 3


def test_an_entry_without_a_message_is_dead_lettered_too(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    broker.store.client.xadd(KEYS.stream("box", 0), {b"other": b"field"})
    publish(connection, "after")
    assert inbox.drain(1)[0].payload == "after"
    assert len(eventually(broker.letters)) == 1


def test_a_claim_whose_answer_was_lost_is_given_back(connection: Connection, broker: BareBroker) -> None:
    """Regression: Redis was killed between serving a claim and answering it; the message stayed held for ever."""
    inbox = Inbox(connection, prefetch=1)
    publish(connection, "first")
    first = inbox.drain(1)[0]
    publish(connection, "unanswered")
    incarnation = inbox.channel.incarnation
    stream = KEYS.stream("box", 0)
    broker.redis.execute_command("XREADGROUP", "GROUP", "workers", incarnation, "STREAMS", stream, ">")
    broker.redis.client_kill_filter(skipme=True, _type="normal")
    first.ack()

    def answered() -> bool:
        with contextlib.suppress(socket.timeout, *connection.connection_errors):
            connection.drain_events(timeout=0.2)
        return len(inbox.messages) == 2

    eventually(answered)
    assert inbox.messages[1].payload == "unanswered"
    assert broker.ledger("box").restarted == 0


def test_a_delayed_publish_whose_answer_was_lost_is_accepted_once(broker: BareBroker) -> None:
    """Regression: asked a second time, it counted as accepted twice and lay there once."""
    store, keys = broker.store, broker.store.keys
    store.client.sadd(keys.queues, "box")
    for _ in range(2):
        attempt = commands.Attempt(keys.last_publishes(1), "connection|token")
        store.run(*commands.delay(keys, "box", "0|same", "body", 60_000, attempt=attempt))
    row = broker.ledger("box")
    assert (row.accepted, row.delayed, row.lost) == (1, 1, 0)


def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(connection: Connection, broker: BareBroker) -> None:
    """Regression: restarted without an append-only file (or from Redis 7 on, with one), it refused acknowledgements."""
    publish(connection, *range(3))
    inbox = Inbox(connection)
    first, second, third = inbox.drain(3)
    first.ack()
    eventually(lambda: broker.ledger("box").handled == 1)
    broker.redis.script_flush()
    second.ack()
    third.requeue()
    eventually(lambda: (broker.ledger("box").handled, broker.ledger("box").redelivered) == (2, 1))
