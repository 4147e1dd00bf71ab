"""What returns to its mailbox before a consumer was given it is not `redelivered` when it comes again.

Regression: a voter took a message for one that a dead worker had begun, because two messages had come at once.
"""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection, Consumer, Message, Queue

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.transport.channel import Channel
from orchestrator.transport.liveness.child_exit import ChildEnd
from tests.integration.transport.test_order import publish
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

FIRST, SECOND = (Queue(name, routing_key=name) for name in ("first", "second"))


class Inbox:
    """A consumer of both queues."""

    def __init__(self, connection: Connection, prefetch: int = 0) -> None:
        self.connection = connection
        self.channel: Channel = connection.channel()
        self.got: list[Message] = []
        self.consumer = Consumer(self.channel, [FIRST, SECOND], accept=["json"])
        self.consumer.register_callback(lambda _body, message: self.got.append(message))
        self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def next(self) -> Message:
        """Wait for the next message."""
        before = len(self.got)
        while len(self.got) == before:
            self.connection.drain_events(timeout=5)
        return self.got[-1]


def is_redelivered(message: Message) -> bool:
    return bool(message.delivery_info.get("redelivered"))


def test_more_messages_than_a_sleeping_reader_may_have(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(connection, prefetch=1)
    sleep = inbox.channel.reader.sleep
    unsent = [FIRST, SECOND]

    def sleep_after_both_were_sent(*arguments: Any) -> Any:
        while unsent:
            queue = unsent.pop()
            publish(connection, queue.name, queue=queue)
        return sleep(*arguments)

    monkeypatch.setattr(inbox.channel.reader, "sleep", sleep_after_both_were_sent)
    first = inbox.next()
    eventually(lambda: broker.ledger("first").ready + broker.ledger("second").ready == 1)
    first.ack()
    second = inbox.next()
    assert {first.payload, second.payload} == {"first", "second"}
    assert [is_redelivered(first), is_redelivered(second)] == [False, False]
    second.ack()
    assert broker.ledger("first").redelivered == broker.ledger("second").redelivered == 0


def test_what_makes_room_for_a_message_in_isolation(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    publish(connection, "suspect", queue=FIRST)
    holder = inbox.channel.settler.holder
    assert holder is not None
    for _ in range(2):
        holder.claims.requeue_interrupted(inbox.next().delivery_tag, ChildEnd.DIED, lambda: DeathReason.CRASHED)
    publish(connection, "bystander", queue=FIRST)
    suspect = inbox.next()
    assert (suspect.payload, is_redelivered(suspect)) == ("suspect", True)
    assert broker.ledger("first").ready == 1
    suspect.ack()
    bystander = inbox.next()
    assert (bystander.payload, is_redelivered(bystander)) == ("bystander", False)
    bystander.ack()
    assert broker.ledger("first").redelivered == 2


def test_what_arrives_for_a_consumer_that_is_cancelled(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    publish(connection, "delivered", "late", queue=FIRST)
    inbox.next().ack()
    inbox.consumer.cancel()
    inbox.channel.delivery.deliver_buffered()
    eventually(lambda: broker.ledger("first").ready == 1)
    late = Inbox(connection).next()
    assert (late.payload, is_redelivered(late)) == ("late", False)
    late.ack()
