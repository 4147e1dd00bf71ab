"""Messages that kombu's producer publishes in one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer

from orchestrator.transport.producer_batch import BatchPublishError, ProducerBatch, open_batch
from tests.support.bare_broker import BareBroker
from tests.support.kombu_inbox import KEYS, QUEUE, Inbox

OpenBatch = Callable[[Producer, int], Any]

#: kombu's batch where kombu has one, and the one for kombu 5.6.
each_batch = pytest.mark.parametrize("open_", [open_batch, ProducerBatch])


@each_batch
def test_batch_publishing_is_one_ledger_entry_per_message(
    connection: Connection, broker: BareBroker, open_: OpenBatch
) -> None:
    with connection.channel() as channel:
        QUEUE(channel).declare()
        producer = Producer(channel, serializer="json")
        with open_(producer, 100) as batch:
            assert batch.producer is producer
            for number in range(250):
                producer.publish(number, exchange="", routing_key="box")
            producer.publish("later", exchange="", routing_key="box", headers={"eta": "2999-01-01T00:00:00+00:00"})
            assert broker.ledger("box").accepted < 251
        row = broker.ledger("box")
        assert (row.accepted, row.ready, row.delayed) == (251, 250, 1)
        producer.publish("alone", exchange="", routing_key="box")
    assert broker.ledger("box").accepted == 252
    assert [m.payload for m in Inbox(connection).drain(250)] == list(range(250))


@each_batch
def test_a_batch_that_raises_is_not_sent(connection: Connection, broker: BareBroker, open_: OpenBatch) -> None:
    with connection.channel() as channel:
        QUEUE(channel).declare()
        producer = Producer(channel, serializer="json")
        with contextlib.suppress(KeyError), open_(producer, 100):
            producer.publish(1, exchange="", routing_key="box")
            raise KeyError
        assert broker.ledger("box").accepted == 0
        producer.publish(2, exchange="", routing_key="box")
    assert broker.ledger("box").accepted == 1


@each_batch
def test_a_batch_collects_fanout_too(connection: Connection, broker: BareBroker, open_: OpenBatch) -> None:
    news = Exchange("news", type="fanout")
    with connection.channel() as channel:
        producer = Producer(channel, serializer="json")
        with open_(producer, 100) as batch:
            producer.publish("x", exchange=news, declare=[news])
            assert [script for script, _, _ in batch.state.session.take_back()] == [""]


@each_batch
def test_a_batch_that_fails_says_so(connection: Connection, broker: BareBroker, open_: OpenBatch) -> None:
    with connection.channel() as channel:
        producer = Producer(channel, serializer="json")
        broker.redis.set(KEYS.stream("box", 0), "not a stream")
        with pytest.raises(BatchPublishError), open_(producer, 100):
            producer.publish(1, exchange="", routing_key="box")
