"""JSON that Python writes or somebody forged, and Redis' own decoder or encoder refuses: no script ends half-way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.keys import GROUP
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker

QUEUE = "q"
TTL_MS = 60_000

#: As json.dumps writes an error's text that came from os.fsdecode; cjson has no words for it.
HALF = "\udce9"

DEEP = "[" * 5000

#: What cjson decodes and does not encode.
BEYOND = json.dumps({"headers": {"id": "x", "orc": {"track": True, "failures": [float("inf")]}}})

BREAKER = {"failures": 1, "window_ms": 60_000, "open_ms": 60_000, "queue": QUEUE}


def held(broker: BareBroker, raw: str = "{}", *, incarnation: str = "w:1#1", **fields: str) -> tuple[str, str]:
    """A message that somebody has; returns its stream and its entry."""
    stream = broker.store.keys.stream(QUEUE, "0")
    broker.redis.hincrby(broker.store.keys.ledger(QUEUE), "accepted", 1)
    broker.redis.sadd(broker.store.keys.queues, QUEUE)
    if not broker.redis.exists(stream):
        broker.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
    entry = broker.redis.xadd(stream, {"m": raw, **fields})
    broker.redis.xreadgroup(GROUP, incarnation, {stream: ">"})
    return stream, entry


def died(broker: BareBroker, stream: str, entry: str) -> Any:
    """Its worker dies for the first time."""
    return broker.store.run(
        *commands.requeue_held(
            broker.store.keys, QUEUE, stream, [entry], max_deaths=3, ttl_ms=TTL_MS, by="w:1#1", reason="killed"
        )
    )


@pytest.mark.parametrize("how", ["settle_with_outcome", "dead_letter"])
@pytest.mark.parametrize(("reason", "phase"), [("retries exhausted", "open"), ("validation", None)])
def test_the_breaker_is_told_of_an_error_without_words(
    broker: BareBroker, how: str, reason: str, phase: str | None
) -> None:
    """Regression: the script raised after its message had ended, and was repeated as if it had done nothing."""
    k = broker.store.keys
    broker.redis.hset(k.flow(QUEUE), mapping=BREAKER)
    stream, entry = held(broker)
    outcome = json.dumps({"outcome": "dead", "reason": reason, "error": HALF})
    if how == "settle_with_outcome":
        broker.store.run(
            *commands.settle_with_outcome(
                stream, k.ledger(QUEUE), k.outcome("x"), entry, "dead", outcome, TTL_MS, reason=reason
            )
        )
    else:
        letter = json.dumps({"queue": QUEUE, "reason": reason, "error": {"message": HALF}})
        call = commands.dead_letter(
            k, QUEUE, stream, entry, letter, reason, "ValueError", delivery="x", outcome=outcome, ttl_ms=TTL_MS
        )
        broker.store.run(*call)
    assert broker.redis.hget(k.flow(QUEUE), "phase") == phase
    assert (broker.ledger().dead, broker.ledger().lost) == (1, 0)


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_past_that_cannot_be_written_stops_no_purge(broker: BareBroker, scheduled: bool) -> None:
    """Regression: up to a thousand messages were purged and counted nowhere."""
    k = broker.store.keys
    broker.redis.sadd(k.queues, QUEUE)
    for number in range(3):
        broker.redis.hincrby(k.ledger(QUEUE), "accepted", 1)
        if scheduled:
            broker.redis.hset(k.delayed_bodies(QUEUE), f"0|{number}", BEYOND)
            broker.redis.zadd(k.delayed(QUEUE), {f"0|{number}": 4_000_000_000_000})
        else:
            broker.redis.xadd(k.stream(QUEUE, "0"), {"m": BEYOND, "d": "[1e999]"})
    stream = "" if scheduled else k.stream(QUEUE, "0")
    assert broker.store.run(*commands.purge(k, QUEUE, 100, ttl_ms=TTL_MS, stream=stream)) == 3
    row = broker.ledger(QUEUE)
    assert (row.cancelled, row.lost) == (3, 0)
    assert json.loads(broker.redis.lindex(k.outcome("x"), 0)) == {"outcome": "cancelled", "by": "purge"}


def test_a_past_that_cannot_be_written_keeps_nobody_out_of_a_full_mailbox(broker: BareBroker) -> None:
    """Regression: whoever sent the message that made the oldest go was told that it was refused."""
    k = broker.store.keys
    broker.redis.sadd(k.queues, QUEUE)
    fields = {"root": k.root, "queue": QUEUE, "levels": "0", "group": GROUP, "limit": 1, "overflow": "drop_oldest"}
    broker.redis.hset(k.flow(QUEUE), mapping={**fields, "block_ms": 0, "warn_from": 9, "outcome_ttl_ms": TTL_MS})
    for raw in (BEYOND, "{}"):
        broker.store.run(*commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [raw]))
    row = broker.ledger(QUEUE)
    assert (row.accepted, row.dead, row.lost) == (2, 1, 0)
    assert json.loads(broker.redis.lindex(k.outcome("x"), 0))["reason"] == "mailbox overflow"


@pytest.mark.parametrize("past", ["[1e999]", '[{"by":"w:1#0"},1e999]', DEEP, '{"1":2}', '["\\udce9"]', "7"])
def test_whatever_deaths_it_is_said_to_have_a_message_is_given_back_with_one_more(
    broker: BareBroker, past: str
) -> None:
    """Regression: it had been taken out of its stream when the script found that it could not write its past."""
    k = broker.store.keys
    stream, entry = held(broker, d=past)
    assert died(broker, stream, entry) == [b"returned"]
    ((_, fields),) = broker.redis.xrange(k.stream(QUEUE, "returned-0"))
    *before, last = json.loads(fields["d"])
    assert (fields["m"], last["reason"]) == ("{}", "killed")
    assert before == ([{"by": "w:1#0"}] if "w:1#0" in past else [])
    assert broker.ledger(QUEUE).lost == 0


def test_what_dies_once_too_often_is_a_letter_whatever_its_headers_say(broker: BareBroker) -> None:
    k = broker.store.keys
    stream, entry = held(broker, BEYOND, d='[{"by":"a"},{"by":"b"},1e999]')
    assert died(broker, stream, entry) == [b"poison"]
    outcome = json.loads(broker.redis.lindex(k.outcome("x"), 0))
    assert outcome["reason"] == "poison"
    assert [death.get("by") for death in outcome["deaths"]] == ["a", "b", "w:1#1"]
    assert (broker.ledger(QUEUE).dead, broker.ledger(QUEUE).lost) == (1, 0)


def test_a_queue_without_words_stops_no_sweep(broker: BareBroker) -> None:
    """What it held is looked for in all queues."""
    k, sweeper = broker.store.keys, broker.store.sweeper()
    sweeper.sweep("before")
    for queues in (json.dumps([HALF]), "[[]]", "7", DEEP):
        raw, _ = broker.store.run(*commands.register(k, "w:1", {"node": "w", "queues": queues}))
        held(broker, incarnation=raw.decode())
        broker.redis.zadd(k.not_polling, {raw: 1})
    assert broker.store.run(*commands.find_stuck(k, ["0"], late_ms=10_000, first=0, count=100)) == [0]
    now_s, _ = broker.redis.time()
    broker.redis.zadd(k.leases, dict.fromkeys(broker.redis.zrange(k.leases, 0, -1), now_s * 1000 - 60_000))
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    assert len(sweeper.sweep("test").dead) == 4
    assert broker.ledger(QUEUE).held == 0


def test_a_broadcast_goes_past_whoever_serves_a_queue_without_words(broker: BareBroker) -> None:
    k = broker.store.keys
    for queues in (json.dumps([HALF]), json.dumps([QUEUE])):
        broker.store.run(*commands.register(k, "w:1", {"node": "w", "queues": queues}))
    call = commands.broadcast(
        k,
        "b",
        [(QUEUE, "0", "{}", "x", "")],
        publishes=k.last_publishes(0),
        group_ms=TTL_MS,
        all_or_nothing=True,
        nonce="nonce",
    )
    assert broker.store.run(*call) == [1, []]
