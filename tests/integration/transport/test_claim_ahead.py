"""A channel that claims ahead: what it does with messages that wait for a slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.keys import GROUP, Keys, levels_of
from orchestrator.transport import claim_ahead, claim_buffer
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.redis import ack_pipeline
from tests.support.bare_broker import BareBroker, kombu_connection
from tests.support.eventually import eventually

KEYS = Keys()
QUEUE = Queue("box", Exchange("box"), routing_key="box")
STREAMS = [KEYS.stream("box", level) for level in levels_of([0, 3, 6, 9])]
MANY = 200


class Inbox:
    """A consumer with one slot."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.bodies: list[Any] = []
        self.current: Any = None
        self.redelivered: list[Any] = []
        consumer = connection.Consumer(QUEUE, callbacks=[self._receive], channel=self.channel)
        consumer.qos(prefetch_count=1)
        consumer.consume()

    def _receive(self, body: Any, message: Any) -> None:
        self.current = message
        self.bodies.append(body)
        if message.delivery_info.get("redelivered"):
            self.redelivered.append(body)

    def next(self) -> None:
        """Acknowledge the message in the slot, and wait for the next one."""
        if self.current is not None:
            self.current.ack()
            self.current = None
        while self.current is None:
            self.connection.drain_events(timeout=10)

    def claim_ahead(self) -> None:
        """Take messages until some wait for the slot."""
        self.next()
        while not len(self.channel.delivery.buffer):
            self.next()


class TakenTurn:
    """The turn to send, as a thread has it that a busy machine has stopped.

    It is released when somebody waits for it for as long as a mark may, which is longer than others wait.
    """

    def __init__(self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        holder = inbox.channel.settler.holder
        assert holder is not None
        self._lock = holder.ack_pipeline._send_lock
        self._lock.acquire()
        self.is_taken = True
        monkeypatch.setattr(holder.ack_pipeline, "_send_lock", self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self.is_taken and timeout > ack_pipeline._LOCK_S:
            self.is_taken = False
            self._lock.release()
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


#: Has each message be one that must not run again after a death.
ON_DEATH_FAIL = pytest.mark.parametrize("connection", [{"orc": {"on_death": "fail"}}], ids=["fail"], indirect=True)


@pytest.fixture
def connection(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    with kombu_connection(redis_url, claim_ahead=True) as connection:
        with connection.channel() as channel:
            QUEUE(channel).declare()
            producer = Producer(channel, serializer="json")
            for number in range(MANY):
                headers = getattr(request, "param", {})
                producer.publish(number, exchange="", routing_key="box", headers=headers)
        yield connection
    PROCESS_INCARNATIONS.leave_all()


@pytest.fixture
def held_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_buffer, "HOLD_S", 3600.0)


def marks(broker: BareBroker) -> list[int]:
    """The delivery counters of what is held, in the order of the messages."""
    pending = [broker.redis.xpending_range(stream, GROUP, "-", "+", 1000) for stream in STREAMS]
    return [entry["times_delivered"] for entries in pending for entry in entries]


@pytest.mark.usefixtures("held_for_good")
def test_only_what_is_delivered_can_be_blamed(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    ahead = len(inbox.channel.delivery.buffer)
    eventually(lambda: marks(broker) == [1, *[0] * ahead])
    inbox.next()
    eventually(lambda: marks(broker) == [1, *[0] * (ahead - 1)])


def test_what_gets_no_slot_goes_back_and_comes_in_the_same_order_as_new(
    connection: Connection, broker: BareBroker
) -> None:
    inbox = Inbox(connection)
    for _ in range(3):
        inbox.claim_ahead()
        eventually(lambda: broker.ledger().held == 1)
        assert not len(inbox.channel.delivery.buffer)
    while len(inbox.bodies) < MANY:
        inbox.next()
    inbox.current.ack()
    eventually(lambda: broker.ledger().handled == MANY)
    assert inbox.bodies == list(range(MANY))
    assert inbox.redelivered == []
    assert broker.ledger().redelivered == broker.ledger().restarted == 0


@ON_DEATH_FAIL
@pytest.mark.usefixtures("held_for_good")
def test_what_must_not_run_twice_is_marked_in_redis_before_it_is_delivered(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    ahead = len(inbox.channel.delivery.buffer)
    inbox.current.ack()
    inbox.current = None
    turn = TakenTurn(inbox, monkeypatch)
    inbox.next()
    assert not turn.is_taken
    assert marks(broker)[-ahead:] == [1, *[0] * (ahead - 1)]


@ON_DEATH_FAIL
@pytest.mark.usefixtures("held_for_good")
def test_what_must_not_run_twice_goes_back_if_redis_does_not_confirm_its_mark(
    connection: Connection, broker: BareBroker
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    before = list(inbox.bodies)
    inbox.current.ack()
    inbox.current = None
    holder = inbox.channel.settler.holder
    assert holder is not None
    with holder.ack_pipeline._send_lock:
        inbox.channel.delivery.deliver_next()
    assert inbox.bodies == before
    while len(inbox.bodies) < MANY:
        inbox.next()
    assert sorted(inbox.bodies) == list(range(MANY))
    assert inbox.redelivered == []


@ON_DEATH_FAIL
@pytest.mark.usefixtures("held_for_good")
def test_what_must_not_run_twice_is_not_delivered_once_it_is_somebody_elses(
    connection: Connection, broker: BareBroker
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    before = list(inbox.bodies)
    inbox.current.ack()
    inbox.current = None
    holder = inbox.channel.settler.holder
    assert holder is not None
    # As a process that was suspended, and that does not know yet that it was declared dead: it sends no heartbeat.
    with holder._lock:
        sweeper = broker.store.sweeper()
        assert sweeper.prove_death(inbox.channel.incarnation, DeathReason.LOST, by="test")
        sweeper.sweep("test")
        eventually(lambda: broker.ledger().held == 0)
        inbox.channel.delivery.deliver_next()
    assert inbox.bodies == before


@ON_DEATH_FAIL
@pytest.mark.usefixtures("held_for_good")
def test_what_must_not_run_twice_is_not_delivered_if_redis_refuses_its_mark(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    before = list(inbox.bodies)
    inbox.current.ack()
    inbox.current = None
    holder = inbox.channel.settler.holder
    assert holder is not None
    monkeypatch.setattr(holder.claims, "_marking", lambda *_: ("XCLAIM", "box"))
    inbox.channel.delivery.deliver_next()
    assert inbox.bodies == before


@pytest.mark.usefixtures("held_for_good")
def test_a_mark_that_has_not_left_the_process_is_waited_for(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    ahead = len(inbox.channel.delivery.buffer)
    inbox.current.ack()
    inbox.current = None
    turn = TakenTurn(inbox, monkeypatch)
    inbox.next()
    assert not turn.is_taken
    eventually(lambda: marks(broker)[-ahead:] == [1, *[0] * (ahead - 1)])


@pytest.mark.usefixtures("held_for_good")
def test_closing_requeues_what_was_claimed_ahead(connection: Connection, broker: BareBroker) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    inbox.channel.close()
    eventually(lambda: broker.ledger().held == 0)
    assert broker.ledger().ready == MANY - len(inbox.bodies) + 1
    again = Inbox(connection)
    again.next()
    assert again.bodies == inbox.bodies[-1:] == again.redelivered
    again.next()
    assert again.bodies[1:] == [len(inbox.bodies)]
    assert again.redelivered == again.bodies[:1]


@pytest.mark.usefixtures("held_for_good")
def test_nothing_that_was_claimed_ahead_is_delivered_once_fenced(connection: Connection) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    inbox.current.ack()
    inbox.channel.on_fenced()
    with pytest.raises(inbox.connection.connection_errors, match="was fenced"):
        inbox.connection.drain_events(timeout=10)


@pytest.mark.usefixtures("held_for_good")
def test_of_a_killed_worker_nothing_that_was_claimed_ahead_is_suspect(
    connection: Connection, broker: BareBroker
) -> None:
    inbox = Inbox(connection)
    inbox.claim_ahead()
    ahead = len(inbox.channel.delivery.buffer)
    eventually(lambda: marks(broker) == [1, *[0] * ahead])
    sweeper = broker.store.sweeper()
    assert sweeper.prove_death(inbox.channel.incarnation, DeathReason.KILLED, by="test")
    sweeper.sweep("test")
    eventually(lambda: broker.ledger().held == 0)
    returned = [fields for stream in STREAMS for _, fields in broker.redis.xrange(stream) if "s" in fields]
    assert [("u" in fields, "n" in fields) for fields in returned] == [(True, False), *[(False, True)] * ahead]


def test_a_last_chance_that_was_claimed_ahead_keeps_its_mark(
    connection: Connection, broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = KEYS.stream("box", 0)
    first, second, *_ = [fields["m"] for _, fields in broker.redis.xrange(stream)]
    broker.redis.xtrim(stream, maxlen=0)
    broker.redis.xadd(stream, {"m": first})
    broker.redis.xadd(stream, {"m": second, "u": "2"})
    monkeypatch.setattr(claim_ahead.ClaimAhead, "count", 5)
    inbox = Inbox(connection)
    inbox.next()
    inbox.next()
    assert inbox.bodies == [0, 1]
    assert inbox.channel.settler.holder.ack_pipeline.flush(wait_s=10)
    assert marks(broker) == [3]
