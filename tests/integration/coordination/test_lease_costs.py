"""What a lease for which nobody else asks costs Redis, counted in commands: that is the same on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator import Orchestrator
from orchestrator.coordination import commands
from orchestrator.core.coordination.lease import Kind, Request
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually


@pytest.fixture
def orchestrator(counted_url: str) -> Iterator[Orchestrator]:
    made = make(counted_url)
    yield made
    close(made)


#: Commands that a script may take: 3 ms on a slow machine.
MOST_COMMANDS = 1000


def all_commands(client: Any, script_calls: Any) -> tuple[int, int]:
    """The scripts that ran meanwhile, and all commands within them."""
    client.config_resetstat()
    script_calls()
    stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}
    scripts = calls.pop("evalsha")
    return scripts, sum(calls.values())


def scripts_and_commands(client: Any, script_calls: Any) -> tuple[int, int]:
    """The scripts that ran meanwhile, and the commands within them that leases alone use."""
    client.config_resetstat()
    script_calls()
    stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}
    own = ("persist", "sadd", "srem", "hset", "hdel", "pexpire", "zadd")
    return calls.get("evalsha", 0), sum(calls.get(name, 0) for name in own)


def test_a_free_lease_takes_two_scripts_that_write_seven_times(orchestrator: Orchestrator, counted_url: str) -> None:
    with redis.Redis.from_url(counted_url) as client, orchestrator.monitors.session():

        def many() -> None:
            for _ in range(50):
                with orchestrator.lease("a"):
                    pass

        many()
        scripts, writes = scripts_and_commands(client, many)
        # A heartbeat may come between.
        assert 100 <= scripts < 120
        assert 350 <= writes < 380


def test_who_was_woken_has_what_it_waited_for_and_does_not_ask_again(
    orchestrator: Orchestrator, counted_url: str
) -> None:
    leases: Any = orchestrator.runtime.redis.named_leases
    asked: list[str] = []
    ask = leases._ask

    def counted(wanted: Any, token: str, left_s: float) -> Any:
        asked.append(token)
        return ask(wanted, token, left_s)

    with redis.Redis.from_url(counted_url) as client, orchestrator.monitors.session():
        with orchestrator.lease("a") as first:
            leases._ask = counted
            waiting = in_session(orchestrator, lambda: orchestrator.lease("a", wait_s=20).acquire())
            eventually(lambda: orchestrator.coordination.leases()[0].waiting == 1)
            before = len(asked)
        second = waiting.result(10)
        assert second.fence > first.fence
        # It may have looked once more while it waited.
        assert before <= len(asked) <= before + 1
        assert client.keys("orc:wake:*") == []


def acquired(orchestrator: Orchestrator, kind: Kind, name: str, request: Request) -> None:
    leases: Any = orchestrator.runtime.redis.named_leases
    leases._run(commands.acquire(orchestrator.runtime.store.keys, kind, name, request))


def test_a_death_of_one_that_held_much_is_many_small_scripts(orchestrator: Orchestrator, counted_url: str) -> None:
    keys, leases = orchestrator.runtime.store.keys, orchestrator.runtime.redis.named_leases
    with redis.Redis.from_url(counted_url) as client:
        client.zadd(keys.leases, {"dead#1": 1, "alive#2": 1})
        for at in range(200):
            acquired(orchestrator, Kind.LEASE, f"n{at}", Request(f"h{at}", "dead#1"))
            for place in range(3):
                acquired(orchestrator, Kind.LEASE, f"n{at}", Request(f"w{at}-{place}", "alive#2", wait_ms=60_000))
        client.zrem(keys.leases, "dead#1")

        def die() -> None:
            eventually(lambda: leases.on_death("dead#1", "killed"))

        scripts, done = all_commands(client, die)
        assert done / scripts < MOST_COMMANDS
        assert scripts >= 10
    assert {state.holders[0].owner for state in leases.list(Kind.LEASE, 1000)} == {"alive#2"}


def test_leases_that_were_entered_often_end_in_small_scripts(orchestrator: Orchestrator, counted_url: str) -> None:
    keys, leases = orchestrator.runtime.store.keys, orchestrator.runtime.redis.named_leases
    with redis.Redis.from_url(counted_url) as client:
        client.zadd(keys.leases, {"dead#1": 1})
        for at in range(1500):
            acquired(orchestrator, Kind.LEASE, f"n{at % 5}", Request(f"h{at}", "dead#1", reentrant=True))
        client.zrem(keys.leases, "dead#1")
        scripts, done = all_commands(client, lambda: eventually(lambda: leases.on_death("dead#1", "killed")))
        assert done / scripts < 100
        assert not client.exists(keys.named_of("dead#1"))
    assert not any(state.holders for state in leases.list(Kind.LEASE, 10))


def test_names_with_many_holders_are_read_in_small_scripts(orchestrator: Orchestrator, counted_url: str) -> None:
    keys, leases = orchestrator.runtime.store.keys, orchestrator.runtime.redis.named_leases
    with redis.Redis.from_url(counted_url) as client:
        client.zadd(keys.leases, {"alive#2": 1})
        for at in range(30):
            for place in range(60):
                acquired(orchestrator, Kind.SEMAPHORE, f"n{at}", Request(f"h{at}-{place}", "alive#2", permits=60))
        found: list[Any] = []
        scripts, done = all_commands(client, lambda: found.extend(leases.list(Kind.SEMAPHORE, 1000)))
        assert done / scripts < MOST_COMMANDS
        assert scripts >= 4
    assert sorted(state.name for state in found) == sorted(f"n{at}" for at in range(30))
    assert {len(state.holders) for state in found} == {60}


def test_names_that_have_expired_hide_no_others(orchestrator: Orchestrator, counted_url: str) -> None:
    """Regression: as many names were left out of the list as were forgotten on the page before."""
    keys, leases = orchestrator.runtime.store.keys, orchestrator.runtime.redis.named_leases
    with redis.Redis.from_url(counted_url) as client:
        client.zadd(keys.leases, {"alive#2": 1})
        for at in range(60):
            acquired(orchestrator, Kind.LEASE, f"n{at:02}", Request(f"h{at}", "alive#2"))
            # Last used in this order, the first one last.
            client.zadd(keys.named, {f"lease:n{at:02}": 1000 - at})
        for at in range(40):
            client.delete(f"orc:named:lease:n{at:02}")
    assert [state.name for state in leases.list(Kind.LEASE, 1000)] == [f"n{at:02}" for at in range(40, 60)]
