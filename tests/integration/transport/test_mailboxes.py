"""Bounded mailboxes, at every door; no worker runs, so what waits goes on waiting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator import Dead, Mailbox, Orchestrator
from orchestrator.core.errors import MailboxFull
from orchestrator.sending.ledger import LedgerRow
from orchestrator.telemetry import Event, attach, detach
from orchestrator.transport.redis import commands
from tests.apps import flow_app as app
from tests.apps.flow_app import Work


@pytest.fixture
def house(redis_url: str) -> Iterator[Orchestrator]:
    orchestrator = app.make(redis_url)
    yield orchestrator
    assert all(row.balanced for row in orchestrator.ledger())
    orchestrator.app.close()


@contextmanager
def heard(*names: str) -> Iterator[list[Event]]:
    found: list[Event] = []
    attach(found.append, *names)
    try:
        yield found
    finally:
        detach(found.append)


def row(house: Orchestrator, queue: str) -> LedgerRow:
    return next(row for row in house.ledger() if row.queue == queue)


def take_out(house: Orchestrator, queue: str, count: int = 1) -> int:
    """Have so many messages handled, if they are there; returns how many were."""
    store = house.runtime.store
    k = store.keys
    call = commands.claim(k, [queue], store.levels, "reader", count)
    claimed = store.run(*call)[1:]
    for at in range(0, len(claimed), 4):
        stream = call[1][claimed[at] - 1]
        store.run(*commands.settle(stream, k.ledger(queue), "handled", [claimed[at + 1]]))
    return len(claimed) // 4


def test_a_full_mailbox_refuses(house: Orchestrator) -> None:
    for _ in range(3):
        house.send("small", Work())
    with pytest.raises(MailboxFull) as full:
        house.send("small", Work())
    assert (full.value.recipient, full.value.depth, full.value.limit) == ("small", 3, 3)
    assert row(house, "small").accepted == 3
    take_out(house, "small")
    house.send("small", Work())


def test_what_is_not_yet_due_counts_and_is_never_refused_when_it_is(house: Orchestrator) -> None:
    house.send("small", Work(), countdown_s=0.01)
    house.send("small", Work(), countdown_s=60)
    house.send("small", Work())
    with pytest.raises(MailboxFull):
        house.send("small", Work())
    with pytest.raises(MailboxFull):
        house.send("small", Work(), countdown_s=60)
    assert row(house, "small").pending == 3


def test_plain_celery_meets_the_same_bound(house: Orchestrator) -> None:
    house.runtime.announce(["small"])
    task = house.app.tasks["small.Work"]
    for _ in range(3):
        task.apply_async(args=[{}], queue="small")
    with pytest.raises(MailboxFull):
        task.apply_async(args=[{}], queue="small")
    assert row(house, "small").accepted == 3


def test_a_bulk_send_says_how_many_were_accepted(house: Orchestrator) -> None:
    with pytest.raises(MailboxFull) as full:
        house.send_many("small", [Work()] * 5)
    assert full.value.accepted == 3
    assert str(full.value).endswith("is full: 3 messages waiting; allowed: 3; accepted before that: 3 of 5")
    assert row(house, "small").accepted == 3


def test_a_bulk_send_of_what_is_not_yet_due_says_it_too(house: Orchestrator) -> None:
    with pytest.raises(MailboxFull) as full:
        house.send_many("small", [Work()] * 5, countdown_s=60)
    assert full.value.accepted == 3
    assert str(full.value).endswith("is full: 3 messages waiting; allowed: 3; accepted before that: 3 of 5")
    assert row(house, "small").accepted == 3


def test_a_broadcast_passes_a_full_mailbox_by(house: Orchestrator) -> None:
    house.send_many("small", [Work()] * 3)
    k = house.runtime.store.keys
    house.runtime.store.client.zadd(k.leases, {"nobody#1": 1})
    house.runtime.store.client.hset(k.incarnation("nobody#1"), "queues", json.dumps(["small", "eu"]))
    report = house.broadcast(["small", "eu"], Work())
    assert report.refused == {"small": "full"}
    with pytest.raises(Exception, match=r"small \(full\)"):
        house.broadcast(["eu", "small"], Work(), strategy="all_or_nothing")
    assert row(house, "eu").accepted == 1


def test_a_sender_that_blocks_gets_the_room_there_is_in_time(house: Orchestrator) -> None:
    house.send_many("patient", [Work()] * 3)
    gone = threading.Thread(target=take_out, args=(house, "patient", 2))
    gone.start()
    house.send("patient", Work())
    gone.join(10)
    house.send("patient", Work())
    with pytest.raises(MailboxFull):
        house.send("patient", Work())
    assert row(house, "patient").accepted == 5


def test_a_bulk_send_that_blocks_goes_on_as_there_is_room(house: Orchestrator) -> None:
    gone = threading.Thread(target=lambda: house.send_many("patient", [Work()] * 6))
    gone.start()
    while gone.is_alive():
        take_out(house, "patient")
    gone.join(10)
    assert row(house, "patient").accepted == 6


def test_the_oldest_makes_room(house: Orchestrator) -> None:
    with heard("mailbox.overflow", "dead_letter.added") as events:
        first, *others = [house.send("newest", Work(), metadata={"number": number}) for number in range(4)]
    outcome = first.wait(5)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "mailbox overflow"
    assert [delivery.outcome() for delivery in others] == [None, None, None]
    letter = house.dead_letters.get(str(outcome.letter_id))
    assert (letter.reason, letter.queue, letter.delivery_id) == ("mailbox overflow", "newest", first.id)
    assert letter.metadata == {"number": 0}
    overflow, added = events
    assert overflow.measurements == {"limit": 3}
    assert overflow.metadata == {
        "agent": "newest", "message": "Work", "id": first.id, "overflow": "drop_oldest", "letter_id": letter.id,
    }  # fmt: skip
    assert (added.name, added.metadata["id"], added.metadata["reason"]) == (
        "dead_letter.added", first.id, "mailbox overflow",
    )  # fmt: skip
    assert (row(house, "newest").accepted, row(house, "newest").dead) == (4, 1)


def test_the_newest_is_dropped(house: Orchestrator) -> None:
    deliveries = house.send_many("oldest", [Work()] * 4)
    assert deliveries[0].outcome() is None
    outcome = deliveries[3].wait(5)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "mailbox overflow"
    later = house.send("oldest", Work(), countdown_s=60).wait(5)
    assert isinstance(later, Dead)
    assert (row(house, "oldest").accepted, row(house, "oldest").dead) == (5, 2)


def test_a_dead_letter_is_not_sent_into_a_full_mailbox(house: Orchestrator) -> None:
    outcome = house.send_many("oldest", [Work()] * 4)[3].wait(5)
    assert isinstance(outcome, Dead)
    with pytest.raises(MailboxFull):
        house.dead_letters.replay(str(outcome.letter_id))
    assert house.dead_letters.count() == 1
    take_out(house, "oldest")
    house.dead_letters.replay(str(outcome.letter_id))
    assert house.dead_letters.count() == 0


def test_it_warns_once_each_time_it_fills_up(house: Orchestrator) -> None:
    with heard("mailbox.warning") as events:
        house.send_many("small", [Work()] * 2)
        assert events == []
        house.send("small", Work())
        with pytest.raises(MailboxFull):
            house.send("small", Work())
        take_out(house, "small")
        house.send("small", Work())
        assert [event.measurements for event in events] == [{"depth": 3, "limit": 3}]
        take_out(house, "small", 3)
        house.send_many("small", [Work()] * 3)
        assert len(events) == 2


def test_settings_say_more_than_the_agent(redis_url: str) -> None:
    orchestrator = app.make(
        redis_url, mailboxes={"s*": {"limit": 7}, "small": {"limit": 1}, "*": {"limit": 2, "overflow": "drop_newest"}}
    )
    orchestrator.send("small", Work())
    with pytest.raises(MailboxFull):
        orchestrator.send("small", Work())
    assert len(orchestrator.send_many("eu", [Work()] * 3)) == 3
    assert row(orchestrator, "eu").dead == 1
    orchestrator.app.close()


def test_who_serves_the_mailbox_has_the_last_word(house: Orchestrator, redis_url: str) -> None:
    house.send_many("small", [Work()] * 3)
    worker = app.make(redis_url, mailboxes={"small": {"limit": 4}})
    worker.runtime.announce(["small"])
    house.send("small", Work())
    with pytest.raises(MailboxFull):
        house.send("small", Work())
    newcomer = app.make(redis_url)
    with pytest.raises(MailboxFull) as full:
        newcomer.send("small", Work())
    assert full.value.limit == 4
    for orchestrator in (worker, newcomer):
        orchestrator.app.close()


def test_a_mailbox_keeps_what_it_is_told() -> None:
    assert Mailbox(limit=10, warn_at=0.75).warn_from == 8


@pytest.mark.parametrize("queue", [None, "celery"])
def test_a_pattern_for_all_agents_leaves_plain_tasks_alone(redis_url: str, queue: str | None) -> None:
    o = app.make(redis_url, mailboxes={"*": {"limit": 1}}, breakers={"*": {"failures": 1}})

    def nothing() -> None:
        """Never run here."""

    task = o.app.task(nothing, name="plain", shared=False)
    for _ in range(2):
        o.send(task.s().set(queue=queue) if queue else task)
    assert o.runtime.store.client.keys(o.runtime.store.keys.flow("*")) == []
    o.send("eu", Work())
    assert o.runtime.store.client.keys(o.runtime.store.keys.flow("*")) == [o.runtime.store.keys.flow("eu").encode()]
    o.app.close()
