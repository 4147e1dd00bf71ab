"""Outcomes that wait for a Celery worker are bounded by number, bytes and age, and are not kept by a full server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import chain

from orchestrator.transport.endings.stream import MOST_ENDINGS
from orchestrator.transport.redis import commands
from tests.support.ends import Ends
from tests.support.eventually import eventually

FILL = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'm', '{}') end"


@pytest.fixture
def ends(redis_url: str) -> Iterator[Ends]:
    made = Ends(redis_url)
    yield made
    made.close()


def purge(ends: Ends) -> None:
    with ends.app.connection_for_write() as connection:
        ends.app.amqp.queues["celery"](connection.default_channel).purge()


def used(ends: Ends) -> int:
    return int(ends.redis.info("memory")["used_memory"])


@contextmanager
def full(ends: Ends) -> Iterator[None]:
    ends.redis.config_set("maxmemory-policy", "noeviction")
    ends.redis.config_set("maxmemory", used(ends))
    try:
        yield
    finally:
        ends.redis.config_set("maxmemory", 0)


def test_a_purge_of_a_full_server_frees_memory_and_counts_what_celery_will_not_know(ends: Ends) -> None:
    before = used(ends)
    for n in range(300):
        ends.sig("note", f"{n} " + "x" * 2500, link_error=[ends.sig("errback")]).apply_async()
    taken = used(ends) - before
    with full(ends):
        purge(ends)
        assert used(ends) - before < 0.6 * taken
        dropped = int(ends.redis.get(ends.store.keys.endings_dropped))
        assert dropped + ends.redis.xlen(ends.store.keys.endings) == 300
    with ends.worker("threads") as w:
        eventually(lambda: f"{dropped} task outcomes not reported to Celery" in w.log(), describe=w.log)
        ends.no_endings_left()


def test_the_arguments_of_a_large_message_are_not_kept_but_what_follows_is(ends: Ends) -> None:
    chains = []
    for shift in ("", "x", "xx"):
        for like in ("", '{"callbacks": ', '[{"callbacks": null}]'):
            large = ends.sig("note", [like, shift + "x" * 300_000, *([{"callbacks": like}] if like else [])])
            chains.append(chain(large, ends.sig("note", "n1"), ends.sig("note", "n2")).apply_async())
    purge(ends)
    kept = [len(fields["m"]) for _, fields in ends.redis.xrange(ends.store.keys.endings)]
    assert len(kept) == len(chains)
    assert max(kept) < 8_000
    with ends.worker("threads") as w:
        for parts in chains:
            ends.state(parts, "REVOKED", w)
            ends.state(parts.parent.parent, "REVOKED", w)


def test_the_number_of_outcomes_that_wait_is_bounded(ends: Ends) -> None:
    k = ends.store.keys
    ends.redis.eval(FILL, 1, k.endings, MOST_ENDINGS)
    ends.sig("note", "n").apply_async()
    purge(ends)
    left = ends.redis.xlen(k.endings)
    assert left <= MOST_ENDINGS
    assert int(ends.redis.get(ends.store.keys.endings_dropped)) == MOST_ENDINGS + 1 - left


def test_outcomes_that_nobody_takes_expire(ends: Ends) -> None:
    k = ends.store.keys
    ends.redis.xadd(k.endings, {"m": "{}"}, id="1-1")
    for n in range(200):
        ends.redis.xadd(k.endings, {"m": "x" * 100}, id=f"1-{n + 2}")
    ends.sig("note", "n").apply_async()
    purge(ends)
    assert 0 < ends.redis.ttl(k.endings) <= 7 * 24 * 3600
    assert int(ends.redis.get(ends.store.keys.endings_dropped)) >= 100


def test_what_a_worker_adds_is_bounded_and_counted_too(ends: Ends) -> None:
    k = ends.store.keys
    ends.redis.eval(FILL, 1, k.endings, MOST_ENDINGS)
    raw = json.dumps({"body": "", "headers": {"id": "i", "task": "note"}, "properties": {}})
    ends.store.run(*commands.end_later(k, "celery", raw, "FAILURE", "ValueError", "bad"))
    left = ends.redis.xlen(k.endings)
    assert left <= MOST_ENDINGS
    assert int(ends.redis.get(k.endings_dropped)) == MOST_ENDINGS + 1 - left
