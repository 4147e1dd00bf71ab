"""A mailbox that is deleted: everything in it has an outcome, its idempotency keys end, its ledger balances."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import Cancelled, Orchestrator
from orchestrator.core.keys import Keys
from orchestrator.sending.delivery import Delivery
from tests.support.ends import Ends
from tests.support.eventually import eventually


@pytest.fixture
def ends(redis_url: str) -> Iterator[Ends]:
    made = Ends(redis_url)
    yield made
    made.close()


@pytest.fixture
def orchestrator(ends: Ends) -> Orchestrator:
    found: Orchestrator = ends.app.orchestrator
    return found


def _delete(ends: Ends, how: str = "delete") -> None:
    with ends.app.connection_for_write() as connection:
        getattr(ends.app.amqp.queues["celery"](connection.default_channel), how)()


def _balanced(ends: Ends, cancelled: int) -> None:
    row = ends.ledger()
    assert (row.accepted, row.cancelled, row.pending, row.lost) == (cancelled, cancelled, 0, 0)


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_whoever_waits_for_a_message_in_it_is_told(ends: Ends, orchestrator: Orchestrator, how: str) -> None:
    now = orchestrator.send(ends.sig("note", "now"))
    later = orchestrator.send(ends.sig("note", "later"), countdown_s=60)
    ends.sig("note", "plain").apply_async()
    _delete(ends, how)
    by = "purge" if how == "purge" else "mailbox deleted"
    assert now.wait(timeout_s=1) == later.wait(timeout_s=1) == Cancelled(by=by)
    _balanced(ends, 3)


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_its_idempotency_keys_end(ends: Ends, orchestrator: Orchestrator, how: str) -> None:
    def send(countdown_s: float | None) -> Delivery:
        note, key = ends.sig("note", "n"), f"k{countdown_s}"
        delivery: Delivery = orchestrator.send(note, idempotency_key=key, countdown_s=countdown_s)
        return delivery

    for countdown_s in (None, 60.0):
        send(countdown_s)
    _delete(ends, how)
    names = [name for name in ends.redis.keys(f"{Keys().root}*") if name.startswith(f"{Keys().root}idempotency:")]
    assert len(names) == 2
    # Not thirty days, as for one that has no outcome yet.
    assert all(0 < ends.redis.pttl(name) <= 24 * 3600 * 1000 for name in names)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_a_worker_holds_has_one_outcome_and_the_worker_goes_on(
    ends: Ends, orchestrator: Orchestrator, pool: str
) -> None:
    with ends.worker(pool) as w:
        running = orchestrator.send(ends.sig("hold", "h"))
        waiting = orchestrator.send(ends.sig("note", "w"))
        eventually(lambda: ends.redis.hget("test:runs", "h"), describe=w.log)
        eventually(lambda: ends.ledger().held == 2, describe=w.log)
        _delete(ends)
        assert running.wait(timeout_s=1) == waiting.wait(timeout_s=1) == Cancelled(by="mailbox deleted")
        ends.redis.rpush("test:go:h", "1")
        eventually(lambda: ends.ledger().duplicated == 2, timeout_s=20, describe=w.log)
        assert running.wait(timeout_s=1) == Cancelled(by="mailbox deleted")
        _balanced(ends, 2)
        assert orchestrator.call(ends.sig("note", "afterwards"), timeout_s=20) == "afterwards"


def test_a_large_mailbox_is_deleted_in_parts(ends: Ends) -> None:
    for n in range(600):
        ends.sig("note", f"n{n}").apply_async(ignore_result=True)
    _delete(ends)
    _balanced(ends, 600)
    assert not ends.redis.exists(*ends.store.streams("celery"))
    assert not ends.redis.xlen(ends.store.keys.endings)
