"""Whatever ends a message outside of an execution ends it for Celery too: backend, signals, errbacks, chord, chain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import chain, chord
from celery.exceptions import NotRegistered, TaskRevokedError, WorkerLostError

from orchestrator import MessageDropped, PoisonMessage
from orchestrator.transport.redis import commands
from tests.support.ends import Ends
from tests.support.eventually import eventually

POOLS = ["solo", "threads", "gevent", "prefork"]


ONE_DEATH = {"ENDS_OPTIONS": '{"max_deaths": 1}'}


@pytest.mark.parametrize(("pool", "bare"), [*((pool, False) for pool in POOLS), ("prefork", True), ("solo", True)])
def test_poison_ends_for_whoever_waits_in_celery(make_ends: Callable[..., Ends], pool: str, bare: bool) -> None:
    ends = make_ends(bare=bare)
    sig = ends.sig("deadly", "d0", link_error=[ends.sig("errback"), ends.sig("errback_with_error")])
    result = sig.apply_async()
    with ends.worker(pool, environment=ONE_DEATH) as first:
        eventually(lambda: ends.redis.exists("test:runs") and (pool == "prefork" or not first.is_running))
        with ends.worker("threads", "second", environment=ONE_DEATH) as second:
            error = ends.state(result, "FAILURE", second)
            assert isinstance(error, PoisonMessage)
            assert isinstance(error, WorkerLostError)
            assert "worker died" in str(error)
            with pytest.raises(PoisonMessage):
                result.get(timeout=5)
            assert ends.errbacks() == [result.id]
            assert ends.errbacks(old="-old") == [f"{result.id} PoisonMessage"]
            (said,) = ends.signals("task_failure")
            assert (said["id"], said["error"]) == (result.id, "PoisonMessage")
            ends.no_endings_left()


def test_a_chord_and_a_chain_that_hold_poison_end(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    parts = chord([ends.sig("note", "n0"), ends.sig("deadly", "d0")], ends.sig("collected"))
    in_chord = parts.apply_async()
    in_chain = chain(ends.sig("deadly", "d1"), ends.sig("note", "n1"), ends.sig("note", "n2")).apply_async()
    with ends.worker("prefork", environment=ONE_DEATH) as w:
        ends.state(in_chord, "FAILURE", w)
        assert isinstance(ends.state(in_chain, "FAILURE", w), PoisonMessage)
        assert isinstance(in_chain.parent.parent.result, PoisonMessage)
    assert not ends.redis.exists("test:collected")


def test_poison_that_nobody_waits_for_is_signalled_too(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    ends.sig("quiet_deadly", "q").apply_async()
    with ends.worker("prefork", environment=ONE_DEATH):
        (said,) = ends.signals("task_failure")
        assert said["error"] == "PoisonMessage"
        ends.no_endings_left()


def test_a_full_mailbox_ends_what_it_drops(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    orchestrator = ends.app.orchestrator
    orchestrator.runtime.redis.announce(orchestrator.runtime.directory.entries(["small"]))
    # An agent's messages have no result in the backend.
    sig = ends.sig("small.Work", {"name": "n"}, queue="small", link_error=[ends.sig("errback")])
    for n in range(3):
        sig.clone().apply_async(task_id=f"t{n}")
    with ends.worker():
        assert ends.errbacks() == ["t0"]
        (said,) = ends.signals("task_failure")
        assert (said["id"], said["error"]) == ("t0", "MessageDropped")


def test_an_unknown_task_ends_its_chord_and_calls_its_errbacks(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    single = ends.sig("no.such", link_error=[ends.sig("errback")]).apply_async()
    in_chord = chord([ends.sig("note", "n0"), ends.sig("no.such")], ends.sig("collected")).apply_async()
    with ends.worker("threads") as w:
        assert isinstance(ends.state(single, "FAILURE", w), NotRegistered)
        ends.state(in_chord, "FAILURE", w)
        assert ends.errbacks() == [single.id]
        assert len(ends.signals("task_unknown", 2)) == 2
        ends.no_endings_left()


def test_a_malformed_message_ends(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    sig = ends.sig("note", "n", link_error=[ends.sig("errback")])
    result = sig.apply_async(headers={"orc": "rubbish"})
    with ends.worker() as w:
        assert type(ends.state(result, "FAILURE", w)).__name__ == "InvalidTaskError"
        assert ends.errbacks() == [result.id]


def test_a_message_that_no_queue_takes_ends(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    result = ends.sig("note", "n").apply_async(exchange="nowhere", routing_key="nowhere")
    with ends.worker() as w:
        assert isinstance(ends.state(result, "FAILURE", w), MessageDropped)


@pytest.mark.parametrize("bare", [False, True], ids=["orchestrator", "transport"])
@pytest.mark.parametrize("how", ["purge", "delete"])
@pytest.mark.parametrize("countdown", [None, 60])
def test_what_is_purged_or_deleted_with_its_mailbox_is_revoked(
    make_ends: Callable[..., Ends], how: str, bare: bool, countdown: int | None
) -> None:
    ends = make_ends(bare=bare)
    single = ends.sig("note", "n0").apply_async(countdown=countdown)
    in_chain = chain(ends.sig("note", "n1"), ends.sig("note", "n2")).apply_async(countdown=countdown)
    with ends.app.connection_for_write() as connection:
        queue = ends.app.amqp.queues["celery"](connection.default_channel)
        getattr(queue, how)()
    with ends.worker("threads") as w:
        error = ends.state(single, "REVOKED", w)
        assert isinstance(error, TaskRevokedError)
        assert str(error) == ("purge" if how == "purge" else "mailbox deleted")
        ends.state(in_chain, "REVOKED", w)
        with pytest.raises(TaskRevokedError):
            in_chain.get(timeout=5)
        assert {said["id"] for said in ends.signals("task_revoked", 2)} == {single.id, in_chain.parent.id}
    assert not ends.redis.exists("test:runs")
    assert (ends.ledger().cancelled, ends.ledger().lost) == (2, 0)


def test_a_delivery_that_its_sender_cancels_is_revoked(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    orchestrator = ends.app.orchestrator
    delivery = orchestrator.send(ends.sig("note", "n"))
    delivery.cancel()
    with ends.worker() as w:
        assert isinstance(ends.state(ends.app.AsyncResult(delivery.id), "REVOKED", w), TaskRevokedError)
        assert not ends.signals("task_revoked")[0]["expired"]


def test_what_expires_or_makes_room_in_a_bounded_queue_is_revoked(make_ends: Callable[..., Ends]) -> None:
    from kombu import Exchange, Queue

    ends = make_ends()
    late = ends.sig("note", "late").apply_async(expires=-1)
    two = Queue("two", Exchange("two"), routing_key="two", queue_arguments={"x-max-length": 2})
    first, *_ = [ends.sig("note", f"n{n}").apply_async(queue=two, declare=[two]) for n in range(3)]
    with ends.worker() as w:
        ends.state(late, "REVOKED", w)
        ends.state(first, "REVOKED", w)
        assert {said["expired"] for said in ends.signals("task_revoked", 2)} == {True}


def test_who_finds_an_end_may_be_killed_before_it_is_delivered(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    result = ends.sig("note", "n").apply_async()
    with ends.app.connection_for_write() as connection:
        ends.app.amqp.queues["celery"](connection.default_channel).purge()
    k = ends.store.keys
    (ending_id,) = [found for found, _ in ends.redis.xrange(k.endings)]
    # Another worker has taken it and is gone; its time is over in a moment.
    ends.store.run(*commands.take_endings(k, [ending_id], 500))
    with ends.worker() as w:
        ends.state(result, "REVOKED", w)
        ends.no_endings_left()


def test_an_ending_that_nothing_can_be_made_of_is_given_up_and_stops_no_other(make_ends: Callable[..., Ends]) -> None:
    ends = make_ends()
    k = ends.store.keys
    for fields in ({"m": b"rubbish"}, {"x": "y"}, {"m": b'{"headers": {"id": "i", "task": "note"}, "body": 1}'}):
        ends.redis.xadd(k.endings, {"q": "celery", "s": "FAILURE", "e": "NoSuchError", "t": "text", **fields})
    result = ends.sig("note", "n").apply_async()
    with ends.app.connection_for_write() as connection:
        ends.app.amqp.queues["celery"](connection.default_channel).purge()
    with ends.worker() as w:
        ends.state(result, "REVOKED", w)
        assert type(ends.state(ends.app.AsyncResult("i"), "FAILURE", w)).__name__ == "NoSuchError"
        ends.no_endings_left()
