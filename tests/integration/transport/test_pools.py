"""What the transport alone promises in every pool, with real workers that are really killed."""

from __future__ import annotations

import signal

import pytest

from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually

POOLS = ["solo", "threads", "prefork", "gevent"]


@pytest.mark.parametrize("pool", POOLS)
def test_many_messages_are_handled_once_each_and_leave_nothing(broker: BareBroker, pool: str) -> None:
    names = [f"n{i}" for i in range(300)]
    broker.send("note", *names)
    with worker(broker, pool=pool, concurrency=2) as w:
        eventually(lambda: broker.ledger().handled == 300, timeout_s=30, describe=w.log)
        assert broker.done() == dict.fromkeys(names, 1)
        row = broker.ledger()
        assert (row.accepted, row.pending, row.lost, row.duplicated) == (300, 0, 0, 0)
        assert w.stop() == 0
    assert broker.redis.zcard(broker.store.keys.leases) == 0
    assert [fields["reason"] for _, fields in broker.redis.xrange(broker.store.keys.deaths)] == ["drained"]
    assert all(broker.redis.xlen(stream) == 0 for stream in broker.store.streams("celery"))


def test_a_pool_of_greenlets_asks_for_the_next_message_as_soon_as_a_slot_is_free(broker: BareBroker) -> None:
    """Regression: with its slots full it slept for 2 s, whatever ended meanwhile."""
    broker.send("note", *[f"n{i}" for i in range(100)])
    with worker(broker, pool="gevent", concurrency=2, arguments=("--prefetch-multiplier", "1")) as w:
        eventually(lambda: broker.ledger().handled == 100, timeout_s=30, describe=w.log)


@pytest.mark.parametrize("pool", POOLS)
def test_work_of_a_killed_worker_runs_elsewhere_promptly(broker: BareBroker, pool: str) -> None:
    broker.send("hold", "h0", "h1", "h2")
    long = {"BARE_LEASE_S": "60"}
    with worker(broker, "first", pool=pool, environment=long) as first:
        eventually(lambda: broker.began() == ["h0"], describe=first.log)
        with worker(broker, "second", pool=pool, environment=long) as second:
            eventually(lambda: broker.ledger().held == 3)
            first.kill()
            broker.go("h0", "h1", "h2", "h0")
            eventually(lambda: broker.ledger().handled == 3, describe=second.log)
    assert set(broker.done()) == {"h0", "h1", "h2"}
    # Its closed connections are the proof: nobody has waited for its lease to run out, which takes a minute here.
    assert next(fields["reason"] for _, fields in broker.redis.xrange(broker.store.keys.deaths)) == "killed"
    row = broker.ledger()
    # Only the one that was running is on the dead worker's account.
    assert (row.restarted, row.redelivered, row.lost) == (1, 3, 0)
    assert broker.letters() == []


@pytest.mark.parametrize("pool", POOLS)
def test_countdown_waits_in_redis_and_is_not_early(broker: BareBroker, pool: str) -> None:
    with worker(broker, pool=pool) as w:
        broker.send("note", "much later", countdown=3600)
        assert broker.ledger().delayed == 1
        before = broker.redis.time()
        broker.send("note", "later", countdown=0.7)
        broker.send("note", "now")
        eventually(lambda: broker.done() == {"now": 1, "later": 1}, describe=w.log)
        after = broker.redis.time()
        assert broker.ledger().delayed == 1
    # When a reader wakes for it, test_sleeping_on.py says.
    assert after[0] - before[0] + (after[1] - before[1]) / 1e6 >= 0.7


@pytest.mark.parametrize("pool", POOLS)
def test_a_stopped_worker_is_fenced_without_loss(broker: BareBroker, pool: str) -> None:
    # Longer than a process waits for its turn on a busy machine, or the waker would be given up, too.
    short = {"BARE_LEASE_S": "3"}
    broker.send("hold", "h0", "h1")
    with worker(broker, "sleeper", pool=pool, environment=short) as sleeper:
        eventually(lambda: broker.ledger().held == 2)
        asleep = sleeper.incarnation
        with worker(broker, "waker", pool=pool, environment=short) as waker:
            sleeper.signal(signal.SIGSTOP)
            broker.go("h0", "h1", "h0", "h1")
            eventually(lambda: broker.ledger().handled == 2, timeout_s=20, describe=waker.log)
            sleeper.signal(signal.SIGCONT)
            # It learns that it was given up, and begins anew.
            eventually(
                lambda: any(
                    lease != asleep and f":{sleeper.pid}#" in lease
                    for lease in broker.redis.zrange(broker.store.keys.leases, 0, -1)
                ),
                timeout_s=20,
                describe=sleeper.log,
            )
            broker.go("h0", "h1", "h2")
            broker.send("hold", "h2")
            eventually(lambda: broker.done().get("h2") == 1, describe=sleeper.log)
    assert broker.ledger().lost == 0
    ends = [fields for _, fields in broker.redis.xrange(broker.store.keys.deaths) if fields["incarnation"] == asleep]
    assert [end["reason"] for end in ends] == ["lost", "fenced"]
