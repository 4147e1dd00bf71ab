"""Scripts that deal with several messages do so by their bytes: large ones do not keep Redis from all others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.transport.liveness.claim import Claim
from orchestrator.transport.liveness.held_claims import batches
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually

MEGABYTE = 1 << 20
MANY = 6


def message(name: str, size: int) -> str:
    headers = {"id": name, "orc": {"track": True}}
    return json.dumps({"headers": headers, "body": "x" * size, "properties": {}})


def waiting(broker: BareBroker, size: int, count: int = MANY) -> list[str]:
    k, store = broker.store.keys, broker.store
    names = [f"m{i}" for i in range(count)]
    store.run(*commands.declare(k, "large", store.streams("large")))
    for name in names:
        store.run(*commands.publish(k.stream("large", "0"), k.ledger("large"), [message(name, size)]))
    return names


def scheduled(broker: BareBroker, size: int) -> None:
    k, store = broker.store.keys, broker.store
    for i in range(MANY):
        store.run(*commands.delay(k, "large", f"0|{i}", message(f"m{i}", size), 1))
    eventually(lambda: broker.redis.zcount(k.delayed("large"), "-inf", broker.redis.time()[0] * 1000) == MANY)


def claim(broker: BareBroker, credit: int = 64) -> list[Any]:
    store = broker.store
    answer = store.run(*commands.claim(store.keys, ["large"], store.levels, "reader", credit))
    return list(answer[3::4])


def registered(broker: BareBroker) -> str:
    k = broker.store.keys
    raw, _ = broker.store.run(*commands.register(k, "w:1", {"queues": '["large"]'}))
    return str(raw.decode())


@pytest.mark.parametrize(("size", "each"), [(3 * MEGABYTE, 1), (MEGABYTE // 4, 5), (100, MANY)])
def test_a_claim_takes_as_many_as_fit(broker: BareBroker, size: int, each: int) -> None:
    waiting(broker, size)
    taken = []
    while got := claim(broker):
        assert len(got) <= each
        taken += got
    assert len(taken) == MANY


def test_a_claim_takes_no_more_than_it_may(broker: BareBroker) -> None:
    waiting(broker, 100, 200)
    assert [len(claim(broker, credit)) for credit in (1, 7, 64, 100, 64)] == [1, 7, 64, 100, 28]


def test_large_messages_fall_due_one_at_a_time(broker: BareBroker) -> None:
    waiting(broker, 10, 0)
    scheduled(broker, 3 * MEGABYTE)
    left = []
    while claim(broker):
        left.append(broker.redis.zcard(broker.store.keys.delayed("large")))
    assert left == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("where", ["waiting", "scheduled"])
def test_a_search_goes_on_after_each_large_message(broker: BareBroker, where: str) -> None:
    k, store = broker.store.keys, broker.store
    if where == "waiting":
        waiting(broker, 3 * MEGABYTE)
        stream, begin = k.stream("large", "0"), "-"
    else:
        waiting(broker, 10, 0)
        scheduled(broker, 3 * MEGABYTE)
        stream, begin = "", "0"
    steps = 0
    while True:
        call = commands.find_delivery(k, "large", "m5", stream=stream, begin=begin, count=500, ttl_ms=1000)
        said, *rest = store.run(*call)
        steps += 1
        if said != b"on":
            break
        begin = rest[0].decode()
    assert (said, steps) == (where.encode(), MANY)


def test_a_dead_worker_s_large_messages_are_requeued_one_at_a_time(broker: BareBroker) -> None:
    k, store = broker.store.keys, broker.store
    waiting(broker, 3 * MEGABYTE)
    worker = registered(broker)
    broker.redis.xreadgroup(store.group, worker, {k.stream("large", "0"): ">"}, count=MANY)
    assert store.run(*commands.fence(k, worker, "killed", "test"))
    call = commands.reclaim(
        k, worker, (*store.levels, "bell"), max_deaths=3, ttl_ms=1000, batch=200, linger_ms=0, death_hooks_done=True
    )
    moved = []
    more = 1
    while more:
        step, more, _ = store.run(*call)
        moved.append(step)
    assert sum(moved) == MANY
    assert max(moved) == 1
    assert len(claim(broker)) == 1


def test_large_messages_are_purged_one_at_a_time(broker: BareBroker) -> None:
    k, store = broker.store.keys, broker.store
    waiting(broker, 3 * MEGABYTE)
    call = commands.purge(k, "large", 1000, ttl_ms=1000, stream=k.stream("large", "0"))
    dropped = [store.run(*call) for _ in range(MANY + 1)]
    assert dropped == [1] * MANY + [0]
    assert broker.ledger("large").cancelled == MANY


def test_what_is_given_back_goes_in_batches_by_bytes() -> None:
    claims = [Claim("", str(i), "s", "q", 0, size=size) for i, size in enumerate([10, MEGABYTE, 10, 10, 3 * MEGABYTE])]
    assert list(batches(claims)) == [["0"], ["1"], ["2", "3"], ["4"]]
    assert list(batches([])) == []
