"""A script that meets a key of another type, which something else has written, loses no message half-way."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.keys import GROUP
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

QUEUE, TTL_MS = "q", 60_000
MESSAGE = json.dumps({"headers": {"id": "x", "task": "note", "orc": {"track": True}}})
FINAL = json.dumps({"headers": {"id": "x", "task": "note", "orc": {"track": True, "on_death": "fail"}}})


@contextlib.contextmanager
def junk_at(broker: BareBroker, key: str) -> Iterator[None]:
    """A text at that key, and afterwards again what was there."""
    with contextlib.suppress(ResponseError):
        broker.redis.rename(key, "kept")
    broker.redis.set(key, "junk")
    yield
    broker.redis.delete(key)
    with contextlib.suppress(ResponseError):
        broker.redis.rename("kept", key)


def held(broker: BareBroker, raw: str = MESSAGE) -> tuple[str, str]:
    """A message that a worker has claimed: its stream and its entry."""
    k = broker.store.keys
    stream = k.stream(QUEUE, "0")
    broker.redis.sadd(k.queues, QUEUE)
    broker.redis.hincrby(k.ledger(QUEUE), "accepted", 1)
    for level in (*broker.store.levels, "bell"):
        broker.redis.xgroup_create(k.stream(QUEUE, level), GROUP, id="0", mkstream=True)
    entry = broker.redis.xadd(stream, {"m": raw})
    broker.redis.xreadgroup(GROUP, "w:1#1", {stream: ">"})
    return stream, entry


def attempt(broker: BareBroker, call: Any) -> Any:
    """Run a script; what it returns, or that Redis has refused it."""
    try:
        return broker.store.run(*call)
    except BrokerUnavailable:
        return "refused"


def _dead_letter(broker: BareBroker, stream: str, entry: str) -> Any:
    said: dict[str, Any] = {"delivery": "x", "outcome": '{"outcome":"dead"}', "ttl_ms": TTL_MS}
    return commands.dead_letter(broker.store.keys, QUEUE, stream, entry, "{}", "handler error", "ValueError", **said)


def places(broker: BareBroker) -> list[str]:
    """Where a message lies."""
    k = broker.store.keys
    streams = [level for level in broker.store.levels for _ in range(broker.redis.xlen(k.stream(QUEUE, level)))]
    return [
        *streams,
        *["delayed"] * broker.redis.hlen(k.delayed_bodies(QUEUE)),
        *["letter"] * broker.redis.xlen(k.dead_letters),
    ]


@pytest.mark.parametrize("key", ["delayed:q", "delayed-body:q", "ledger:q", "permits:q", "flow:q"])
def test_an_attempt_that_failed_is_repeated(broker: BareBroker, key: str) -> None:
    k = broker.store.keys
    stream, entry = held(broker)
    call = commands.retry(k, QUEUE, stream, entry, "0|1", MESSAGE, 60_000, ttl_ms=TTL_MS)
    with junk_at(broker, f"orc:{key}"):
        attempt(broker, call)
    attempt(broker, call)
    assert places(broker) == ["delayed"]


@pytest.mark.parametrize("key", ["dead-letters", "letters:kinds", "letters:kind-names", "ledger:q", "permits:q"])
def test_what_has_failed_for_good_becomes_one_letter(broker: BareBroker, key: str) -> None:
    k = broker.store.keys
    stream, entry = held(broker)
    call = _dead_letter(broker, stream, entry)
    with junk_at(broker, f"orc:{key}"):
        attempt(broker, call)
    attempt(broker, call)
    assert places(broker) == ["letter"]
    assert json.loads(broker.redis.lindex(k.outcome("x"), 0))["outcome"] == "dead"


def test_a_letter_whose_kind_is_of_another_type_has_its_message(broker: BareBroker) -> None:
    """Regression: the message was taken out of its mailbox, and its letter had no message."""
    k = broker.store.keys
    stream, entry = held(broker)
    broker.store.run(*_dead_letter(broker, stream, entry))
    (of_kind,) = broker.redis.keys(f"{k.letters_of('')}*")
    broker.redis.delete(of_kind)
    broker.redis.set(of_kind, "junk")
    entry = broker.redis.xadd(stream, {"m": MESSAGE})
    broker.redis.xreadgroup(GROUP, "w:1#1", {stream: ">"})
    broker.store.run(*_dead_letter(broker, stream, entry))
    assert [fields["m"] for _, fields in broker.redis.xrange(of_kind)] == [MESSAGE]
    (aside,) = broker.redis.keys(f"{of_kind}:broken:*")
    assert broker.redis.get(aside) == "junk", "it is kept"


@pytest.mark.parametrize(
    ("key", "raw", "most", "place"),
    [
        ("q:returned-0:q", MESSAGE, 3, "0"),
        ("ledger:q", MESSAGE, 3, "returned-0"),
        ("flow:q", MESSAGE, 3, "returned-0"),
        ("permits:q", MESSAGE, 3, "returned-0"),
        ("dead-letters", MESSAGE, 1, "letter"),
        ("letters:kinds", MESSAGE, 1, "letter"),
        ("ledger:q", MESSAGE, 1, "letter"),
        ("endings", MESSAGE, 1, "letter"),
        ("dead-letters", FINAL, 3, "letter"),
        ("ledger:q", FINAL, 3, "letter"),
    ],
)
def test_what_a_dead_worker_had_is_in_one_place(broker: BareBroker, key: str, raw: str, most: int, place: str) -> None:
    """Regression: it was taken out of its mailbox and put nowhere."""
    k = broker.store.keys
    stream, entry = held(broker, raw)
    call = commands.requeue_held(k, QUEUE, stream, [entry], max_deaths=most, ttl_ms=TTL_MS, by="w:1#1", reason="killed")
    with junk_at(broker, f"orc:{key}"):
        attempt(broker, call)
    attempt(broker, call)
    assert places(broker) == [place]


def test_what_falls_due_for_a_mailbox_of_another_type_stays_scheduled(broker: BareBroker) -> None:
    k = broker.store.keys
    held(broker)
    broker.redis.flushdb()
    broker.redis.hset(k.delayed_bodies(QUEUE), "0|1", MESSAGE)
    broker.redis.zadd(k.delayed(QUEUE), {"0|1": 1})
    call = commands.claim(k, [QUEUE], broker.store.levels, "w:1#1", 1, leased=False)
    with junk_at(broker, k.stream(QUEUE, "0")):
        assert attempt(broker, call) == "refused"
        assert places_delayed(broker) == 1
    for level in broker.store.levels:
        with contextlib.suppress(ResponseError):
            broker.redis.xgroup_create(k.stream(QUEUE, level), GROUP, id="0", mkstream=True)
    attempt(broker, call)
    assert places(broker) == ["0"]


def places_delayed(broker: BareBroker) -> int:
    """How many messages are scheduled."""
    count: int = broker.redis.zcard(broker.store.keys.delayed(QUEUE))
    return count


def test_a_worker_repeats_it_until_the_key_is_gone_and_names_it_once(
    broker: BareBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: after five refusals in a few ms the message stayed pending until its worker ended, and ran again."""
    stream, entry = held(broker)
    pool: Any = redis.ConnectionPool.from_url(broker.url)
    pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group=GROUP)
    script, keys, args = _dead_letter(broker, stream, entry)
    with junk_at(broker, "orc:dead-letters"):
        pipeline.post(script, keys, args)
        eventually(lambda: "key 'orc:dead-letters' in Redis is a string" in caplog.text)
        # Others are not kept waiting.
        assert pipeline.command("SET", "other", "1")
        eventually(lambda: broker.redis.get("other") == "1" and pipeline.unsent == 1)
    eventually(lambda: places(broker) == ["letter"])
    assert pipeline.close(wait_s=1.0)
    assert caplog.text.count("Redis refused dead_letter") == 1
    assert "delete it: Error running script" in caplog.text


def test_a_worker_that_is_busy_repeats_it_too(broker: BareBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: it was repeated after a second with nothing to send, so a busy worker never did."""
    stream, entry = held(broker)
    pool: Any = redis.ConnectionPool.from_url(broker.url)
    pipeline = AckPipeline(pool, flush_s=0.01, flush_count=64, group=GROUP)
    script, keys, args = _dead_letter(broker, stream, entry)
    with junk_at(broker, "orc:dead-letters"):
        pipeline.post(script, keys, args)
        eventually(lambda: "Redis refused dead_letter" in caplog.text)

    def is_put_while_others_are_settled() -> bool:
        pipeline.ack(stream, broker.store.keys.ledger(QUEUE), "handled", "1-1")
        return places(broker) == ["letter"]

    eventually(is_put_while_others_are_settled)
    assert pipeline.close(wait_s=1.0)


def test_what_waits_in_a_lane_stays_there_if_its_mailbox_is_of_another_type(broker: BareBroker) -> None:
    """Regression: it was taken out of its lane and put nowhere."""
    k = broker.store.keys
    stream, entry = held(broker)
    broker.redis.hset(k.flow(QUEUE), mapping={"concurrency": 1, "concurrency_key": "t"})
    broker.redis.hset(k.permits(QUEUE), f"0 {entry}", "a")
    broker.redis.hset("orc:permits-used:q", "a", 1)
    broker.redis.rpush("orc:lane:1:q:a", broker.redis.xadd(k.lanes(QUEUE), {"m": MESSAGE, "l": "0", "k": "a"}))
    call = commands.settle(stream, k.ledger(QUEUE), "handled", [entry], group=GROUP)
    with junk_at(broker, k.stream(QUEUE, "returned-0")):
        attempt(broker, call)
        assert (broker.redis.xlen(k.lanes(QUEUE)), broker.redis.llen("orc:lane:1:q:a")) == (1, 1)
    assert places(broker) == []


@pytest.mark.parametrize("how", ["settle", "settle_with_outcome"])
def test_what_was_handled_ends_although_the_ledger_cannot_count_it(broker: BareBroker, how: str) -> None:
    """Regression: its outcome was never recorded, and whoever waited for it waited in vain."""
    k = broker.store.keys
    stream, entry = held(broker)
    call = commands.settle(stream, k.ledger(QUEUE), "handled", [entry], group=GROUP)
    if how == "settle_with_outcome":
        outcome = '{"outcome":"handled"}'
        call = commands.settle_with_outcome(
            stream, k.ledger(QUEUE), k.outcome("x"), entry, "handled", outcome, TTL_MS, reason=""
        )
    with junk_at(broker, k.ledger(QUEUE)):
        attempt(broker, call)
    assert places(broker) == []
    assert broker.redis.llen(k.outcome("x")) == (how == "settle_with_outcome")
