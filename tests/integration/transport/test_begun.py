"""What must not run twice and was begun ends, also where its worker requeues it itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Connection, Message

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from tests.integration.transport.test_order import publish
from tests.integration.transport.test_undelivered import FIRST, Inbox
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

HEADERS = {"orc": {"on_death": "fail"}}


@pytest.fixture
def delivered(connection: Connection) -> Iterator[Message]:
    """A message that must not run twice, delivered."""
    publish(connection, "once", queue=FIRST, headers=HEADERS)
    yield Inbox(connection).next()
    PROCESS_INCARNATIONS.leave_all()


def test_begun(delivered: Message, broker: BareBroker) -> None:
    settler, tag = delivered.channel.settler, delivered.delivery_tag
    settler.started(tag)
    settler.requeue([tag], may_have_begun=True)
    eventually(lambda: broker.ledger("first").pending == 0)
    assert [letter["y"] for letter in broker.letters()] == ["worker died"]
    assert broker.ledger("first").restarted == 0


def test_not_begun(delivered: Message, broker: BareBroker) -> None:
    delivered.channel.settler.requeue([delivered.delivery_tag], may_have_begun=True)
    eventually(lambda: broker.ledger("first").ready == 1)
    assert broker.letters() == []


def test_begun_and_rejected_by_its_own_handler(delivered: Message, broker: BareBroker) -> None:
    delivered.channel.settler.started(delivered.delivery_tag)
    delivered.reject(requeue=True)
    eventually(lambda: broker.ledger("first").ready == 1)


def test_cancelled_by_celery_because_its_connection_was_lost(broker: BareBroker) -> None:
    with WorkerProcess("tests.apps.bare", broker.url, pool="prefork", environment={"BARE_CANCELS": "1"}) as worker:
        broker.send("hold", "h0", headers=HEADERS)
        eventually(lambda: broker.began() == ["h0"], describe=worker.log)
        broker.redis.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: broker.ledger().dead == 1, timeout_s=20, describe=worker.log)
        assert [letter["y"] for letter in broker.letters()] == ["worker died"]
        assert broker.began() == ["h0"]


@pytest.mark.parametrize(("reason", "ends"), [(DeathReason.KILLED, True), (DeathReason.DRAINED, False)])
def test_delivered_to_a_worker_that_was_asked_to_stop(
    delivered: Message, broker: BareBroker, reason: DeathReason, ends: bool
) -> None:
    incarnation = delivered.channel.incarnation
    broker.redis.hset(broker.store.keys.incarnation(incarnation), "stopping", "1")
    sweeper = broker.store.sweeper()
    assert sweeper.prove_death(incarnation, reason, by="test")
    sweeper.sweep("test")
    eventually(lambda: broker.ledger("first").held == 0)
    assert [letter["y"] for letter in broker.letters()] == ["worker died"] * ends
    assert broker.ledger("first").ready == (not ends)
