"""A message's deaths are in its outcome, wherever it lay when it ended without a worker."""

from __future__ import annotations

import json

import pytest

from orchestrator import Cancelled, CancelResult, Exponential, Retry, Status
from orchestrator.core.keys import GROUP
from orchestrator.transport.redis import commands
from tests.apps import agents_app as app
from tests.support.agents_cluster import hosted
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

QUEUE = "q"
TTL_MS = 60_000
WAIT_S = 20
TRACKED = json.dumps({"headers": {"id": "x", "orc": {"track": True}}})
DEATHS = [{"reason": "killed", "by": "w:1#1", "at": 1}]


def waits(broker: BareBroker, *, scheduled: bool) -> None:
    """A message that somebody died of, in its mailbox or not yet due."""
    k = broker.store.keys
    broker.redis.sadd(k.queues, QUEUE)
    broker.redis.hincrby(k.ledger(QUEUE), "accepted", 1)
    if scheduled:
        broker.redis.hset(k.delayed_bodies(QUEUE), mapping={"0|m": TRACKED, "0|m|d": json.dumps(DEATHS)})
        broker.redis.zadd(k.delayed(QUEUE), {"0|m": 4_000_000_000_000})
    else:
        broker.redis.xadd(k.stream(QUEUE, "0"), {"m": TRACKED, "d": json.dumps(DEATHS)})


def told(broker: BareBroker) -> object:
    return json.loads(broker.redis.lindex(broker.store.keys.outcome("x"), 0))["deaths"]


@pytest.mark.parametrize("scheduled", [True, False])
def test_what_is_purged_has_its_deaths(broker: BareBroker, scheduled: bool) -> None:
    k = broker.store.keys
    waits(broker, scheduled=scheduled)
    stream = "" if scheduled else k.stream(QUEUE, "0")
    assert broker.store.run(*commands.purge(k, QUEUE, 100, ttl_ms=TTL_MS, stream=stream)) == 1
    assert told(broker) == DEATHS
    assert not broker.redis.exists(k.delayed_bodies(QUEUE))


@pytest.mark.parametrize("scheduled", [True, False])
def test_what_goes_for_want_of_room_has_its_deaths(broker: BareBroker, scheduled: bool) -> None:
    k = broker.store.keys
    fields = {"root": k.root, "queue": QUEUE, "levels": "0", "group": GROUP, "limit": 1, "overflow": "drop_oldest"}
    broker.redis.hset(k.flow(QUEUE), mapping={**fields, "block_ms": 0, "warn_from": 9, "outcome_ttl_ms": TTL_MS})
    waits(broker, scheduled=scheduled)
    if scheduled:
        # Of what waits in the mailbox the first would go, so the other is not due yet either.
        broker.redis.zadd(k.delayed(QUEUE), {"0|m": 1})
        broker.store.run(*commands.delay(k, QUEUE, "0|n", "{}", 3_600_000))
    else:
        broker.store.run(*commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), ["{}"]))
    assert told(broker) == DEATHS
    assert broker.ledger(QUEUE).dead == 1


def test_what_is_cancelled_while_it_waits_for_its_retry_has_its_deaths() -> None:
    with hosted("prefork", concurrency=1) as cluster:
        late = Retry(max_retries=2, backoff=Exponential(initial_s=600, cap_s=600))
        one, other = (
            cluster.orchestrator.send("worker", app.Deadly(name=name, lives="kf"), retry=late) for name in ("c", "p")
        )
        expected = [(1, "its pool process died: killed"), (2, "ConnectionError: a life")]
        for delivery in (one, other):
            eventually(
                lambda at=delivery: at.status() is Status.SCHEDULED,  # type: ignore[misc]
                WAIT_S,
                cluster.log,
            )
            assert [(a.number, a.how) for a in delivery.history()] == expected
        assert one.cancel() is CancelResult.CANCELLED
        with cluster.orchestrator.app.connection_for_write() as connection:
            connection.default_channel.queue_purge("worker")
        for delivery, by in ((one, "sender"), (other, "purge")):
            assert delivery.wait(timeout_s=WAIT_S) == Cancelled(by=by)
            assert [(a.number, a.how) for a in delivery.history()] == expected
