"""What a sweep looks at is bounded however much there is; what is left is looked at by the next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.keys import GROUP
from orchestrator.transport.liveness import sweep
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker


@pytest.fixture
def broker(redis_url: str) -> Iterator[BareBroker]:
    # However long lies between two sweeps here, it is no gap, after which the second would judge nobody.
    broker = BareBroker(redis_url, sweep_gap_s=3600)
    yield broker
    broker.close()


def looked_through(sweeper: Sweeper, cost: list[int], redis: Any) -> None:
    """Note how many streams are asked for their consumers whenever orphans are looked for."""
    wire: Any = sweeper._commands
    run = wire.run

    def asked() -> int:
        # Redis 7 counts by subcommand.
        return sum(
            int(n["calls"]) for name, n in redis.info("commandstats").items() if name.startswith("cmdstat_xinfo")
        )

    def noted(name: str, *args: Any) -> Any:
        before = asked()
        answer = run(name, *args)
        if name == "find_orphans":
            cost.append(asked() - before)
        return answer

    wire.run = noted


def with_message(broker: BareBroker, queue: str, holder: str = "") -> None:
    """A mailbox with one message, which nobody or that holder has."""
    stream = broker.store.keys.stream(queue, "0")
    broker.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
    broker.redis.xadd(stream, {"m": "{}"})
    broker.redis.sadd(broker.store.keys.queues, queue)
    if holder:
        broker.redis.xreadgroup(GROUP, holder, {stream: ">"})


def test_orphans_are_looked_for_in_a_few_queues_per_sweep_and_all_are_found(broker: BareBroker) -> None:
    for n in range(1, 81):
        with_message(broker, f"q{n}", f"w{n}@h:1#{n}")
    sweeper = broker.store.sweeper()
    cost: list[int] = []
    looked_through(sweeper, cost, broker.redis)
    moved = [sweeper.sweep("test").moved for _ in range(3)]
    assert moved == [50, 30, 0]
    streams = len(sweeper._levels)
    # In the third sweep nobody looked: a new round begins only after a while.
    assert cost == [50 * streams, 30 * streams]


def test_whoever_is_stuck_is_found_behind_a_hundred_that_only_ask_for_nothing(broker: BareBroker) -> None:
    k, sweeper = broker.store.keys, broker.store.sweeper()
    with_message(broker, "full")
    ids = []
    for n in range(251):
        fields = {"node": "w", "queues": json.dumps(["full" if n == 250 else "empty"])}
        raw, _ = broker.store.run(*commands.register(k, f"w{n}@h:1", fields))
        ids.append(raw.decode())
    broker.redis.zadd(k.not_polling, {one: n for n, one in enumerate(ids)})
    # Each sweep takes a heartbeat of the future for one of its own time.
    far_ms = (broker.redis.time()[0] + 3600) * 1000
    dead: list[str] = []
    for _ in range(3):
        broker.redis.zadd(k.leases, dict.fromkeys(ids, far_ms), xx=True)
        dead += sweeper.sweep("test").dead
    assert dead == [ids[250]]


def died_at_once(broker: BareBroker, many: int) -> list[str]:
    """Incarnations whose leases ran out together, each with a message of its own mailbox in hand."""
    k, ids = broker.store.keys, []
    for n in range(many):
        fields = {"node": "w", "queues": json.dumps([f"q{n % 10}"])}
        raw, _ = broker.store.run(*commands.register(k, f"w{n}@h:1", fields))
        ids.append(raw.decode())
        stream = k.stream(f"q{n % 10}", "0")
        if n < 10:
            broker.redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            broker.redis.sadd(k.queues, f"q{n}")
        broker.redis.xadd(stream, {"m": "{}"})
        broker.redis.hincrby(k.ledger(f"q{n % 10}"), "accepted", 1)
        broker.redis.xreadgroup(GROUP, ids[-1], {stream: ">"})
    now_s, _ = broker.redis.time()
    broker.redis.zadd(k.leases, dict.fromkeys(ids, now_s * 1000 - 60000))
    broker.redis.hset(k.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    return ids


def test_however_many_die_at_once_one_sweep_requeues_what_all_of_them_held(broker: BareBroker) -> None:
    """Regression: number 101 waited until a hundred others had been forgotten, three seconds each hundred."""
    sweeper = broker.store.sweeper()
    sweeper.sweep("before")
    died_at_once(broker, 150)
    assert broker.ledger().held == 150
    swept = sweeper.sweep("test")
    assert (len(swept.dead), swept.moved, broker.ledger().held) == (150, 150, 0)


def test_whoever_died_just_now_is_served_before_those_that_only_linger(
    broker: BareBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_AGAIN_S", 60.0)
    sweeper = broker.store.sweeper()
    sweeper.sweep("before")
    died_at_once(broker, 12)
    sweeper.sweep("test")
    late = died_at_once_more(broker)
    order: list[str] = []
    wire: Any = sweeper._commands
    run = wire.run

    def noted(name: str, *args: Any) -> Any:
        if name == "reclaim":
            order.append(args[1][1])
        return run(name, *args)

    wire.run = noted
    sweeper.sweep("test")
    assert (order[0], len(order)) == (late, 13)


def died_at_once_more(broker: BareBroker) -> str:
    """Another that holds nothing, fenced last of all."""
    k = broker.store.keys
    raw, _ = broker.store.run(*commands.register(k, "late@h:1", {"node": "w"}))
    assert broker.store.run(*commands.fence(k, raw.decode(), "killed", "test"))
    return str(raw.decode())
