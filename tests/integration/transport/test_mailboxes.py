"""Bounded mailboxes, at every door; no worker runs, so what waits goes on waiting."""

from __future__ import annotations

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
def cluster(redis_url: str) -> Iterator[Orchestrator]:
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


def row(cluster: Orchestrator, queue: str) -> LedgerRow:
    return next(row for row in cluster.ledger() if row.queue == queue)


def take_out(cluster: Orchestrator, queue: str, count: int = 1) -> int:
    """Have so many messages handled, if they are there; returns how many were."""
    store = cluster.runtime.store
    k = store.keys
    call = commands.claim(k, [queue], store.levels, "reader", count)
    claimed = store.run(*call)[1:]
    for at in range(0, len(claimed), 4):
        stream = call[1][claimed[at] - 1]
        store.run(*commands.settle(stream, k.ledger(queue), "handled", [claimed[at + 1]]))
    return len(claimed) // 4


def test_a_full_mailbox_refuses(cluster: Orchestrator) -> None:
    for _ in range(3):
        cluster.send("small", Work())
    with pytest.raises(MailboxFull) as full:
        cluster.send("small", Work())
    assert (full.value.recipient, full.value.depth, full.value.limit) == ("small", 3, 3)
    assert row(cluster, "small").accepted == 3
    take_out(cluster, "small")
    cluster.send("small", Work())


def test_what_is_not_yet_due_counts_and_is_never_refused_when_it_is(cluster: Orchestrator) -> None:
    cluster.send("small", Work(), countdown_s=0.01)
    cluster.send("small", Work(), countdown_s=60)
    cluster.send("small", Work())
    with pytest.raises(MailboxFull):
        cluster.send("small", Work())
    with pytest.raises(MailboxFull):
        cluster.send("small", Work(), countdown_s=60)
    assert row(cluster, "small").pending == 3


def test_plain_celery_meets_the_same_bound(cluster: Orchestrator) -> None:
    cluster.runtime.redis.announce(cluster.runtime.directory.entries(["small"]))
    task = cluster.app.tasks["small.Work"]
    for _ in range(3):
        task.apply_async(args=[{}], queue="small")
    with pytest.raises(MailboxFull):
        task.apply_async(args=[{}], queue="small")
    assert row(cluster, "small").accepted == 3


def test_a_bulk_send_says_how_many_were_accepted(cluster: Orchestrator) -> None:
    with pytest.raises(MailboxFull) as full:
        cluster.send_many("small", [Work()] * 5)
    assert full.value.accepted == 3
    assert str(full.value).endswith("is full: 3 messages waiting; allowed: 3; accepted before that: 3 of 5")
    assert row(cluster, "small").accepted == 3


def test_a_bulk_send_of_what_is_not_yet_due_says_it_too(cluster: Orchestrator) -> None:
    with pytest.raises(MailboxFull) as full:
        cluster.send_many("small", [Work()] * 5, countdown_s=60)
    assert full.value.accepted == 3
    assert str(full.value).endswith("is full: 3 messages waiting; allowed: 3; accepted before that: 3 of 5")
    assert row(cluster, "small").accepted == 3


def test_a_broadcast_passes_a_full_mailbox_by(cluster: Orchestrator) -> None:
    cluster.send_many("small", [Work()] * 3)
    k = cluster.runtime.store.keys
    cluster.runtime.store.client.zadd(k.leases, {"nobody#1": 1})
    for queue in ("small", "eu"):
        cluster.runtime.store.client.sadd(k.servers(queue), "nobody#1")
    report = cluster.broadcast(["small", "eu"], Work())
    assert report.refused == {"small": "full"}
    with pytest.raises(Exception, match=r"small \(full\)"):
        cluster.broadcast(["eu", "small"], Work(), strategy="all_or_nothing")
    assert row(cluster, "eu").accepted == 1


def test_a_sender_that_blocks_gets_the_room_there_is_in_time(cluster: Orchestrator) -> None:
    cluster.send_many("patient", [Work()] * 3)
    gone = threading.Thread(target=take_out, args=(cluster, "patient", 2))
    gone.start()
    cluster.send("patient", Work())
    gone.join(10)
    cluster.send("patient", Work())
    store = cluster.runtime.store
    store.client.hset(store.keys.flow("patient"), "block_ms", 50)
    with pytest.raises(MailboxFull):
        cluster.send("patient", Work())
    assert row(cluster, "patient").accepted == 5


def test_a_bulk_send_that_blocks_goes_on_as_there_is_room(cluster: Orchestrator) -> None:
    gone = threading.Thread(target=lambda: cluster.send_many("patient", [Work()] * 6))
    gone.start()
    while gone.is_alive():
        take_out(cluster, "patient")
    gone.join(10)
    assert row(cluster, "patient").accepted == 6


def test_the_oldest_makes_room(cluster: Orchestrator) -> None:
    with heard("mailbox.overflow", "dead_letter.added") as events:
        first, *others = [cluster.send("newest", Work(), metadata={"number": number}) for number in range(4)]
    outcome = first.wait(5)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "mailbox overflow"
    assert [delivery.outcome() for delivery in others] == [None, None, None]
    letter = cluster.dead_letters.get(str(outcome.letter_id))
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
    assert (row(cluster, "newest").accepted, row(cluster, "newest").dead) == (4, 1)


def test_the_newest_is_dropped(cluster: Orchestrator) -> None:
    deliveries = cluster.send_many("oldest", [Work()] * 4)
    assert deliveries[0].outcome() is None
    outcome = deliveries[3].wait(5)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "mailbox overflow"
    later = cluster.send("oldest", Work(), countdown_s=60).wait(5)
    assert isinstance(later, Dead)
    assert (row(cluster, "oldest").accepted, row(cluster, "oldest").dead) == (5, 2)


def test_a_dead_letter_is_not_sent_into_a_full_mailbox(cluster: Orchestrator) -> None:
    outcome = cluster.send_many("oldest", [Work()] * 4)[3].wait(5)
    assert isinstance(outcome, Dead)
    with pytest.raises(MailboxFull):
        cluster.dead_letters.replay(str(outcome.letter_id))
    assert cluster.dead_letters.count() == 1
    take_out(cluster, "oldest")
    cluster.dead_letters.replay(str(outcome.letter_id))
    assert cluster.dead_letters.count() == 0


def test_it_warns_once_each_time_it_fills_up(cluster: Orchestrator) -> None:
    with heard("mailbox.warning") as events:
        cluster.send_many("small", [Work()] * 2)
        assert events == []
        cluster.send("small", Work())
        with pytest.raises(MailboxFull):
            cluster.send("small", Work())
        take_out(cluster, "small")
        cluster.send("small", Work())
        assert [event.measurements for event in events] == [{"depth": 3, "limit": 3}]
        take_out(cluster, "small", 3)
        cluster.send_many("small", [Work()] * 3)
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


def test_who_serves_the_mailbox_has_the_last_word(cluster: Orchestrator, redis_url: str) -> None:
    cluster.send_many("small", [Work()] * 3)
    worker = app.make(redis_url, mailboxes={"small": {"limit": 4}})
    worker.runtime.redis.announce(worker.runtime.directory.entries(["small"]))
    cluster.send("small", Work())
    with pytest.raises(MailboxFull):
        cluster.send("small", Work())
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
