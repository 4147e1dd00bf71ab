"""What a lease for which nobody else asks costs Redis, counted in commands: that is the same on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator import Orchestrator
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url)
    yield made
    close(made)


def scripts_and_commands(client: Any, script_calls: Any) -> tuple[int, int]:
    """The scripts that ran meanwhile, and the commands within them that leases alone use."""
    client.config_resetstat()
    script_calls()
    stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}
    own = ("persist", "sadd", "srem", "hset", "hdel", "pexpire", "zadd")
    return calls.get("evalsha", 0), sum(calls.get(name, 0) for name in own)


def test_a_free_lease_takes_two_scripts_that_write_six_times(orchestrator: Orchestrator, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, orchestrator.monitors.session():

        def many() -> None:
            for _ in range(50):
                with orchestrator.lease("a"):
                    pass

        many()
        scripts, writes = scripts_and_commands(client, many)
        # A heartbeat may come between.
        assert 100 <= scripts < 120
        assert 300 <= writes < 330


def test_who_was_woken_has_what_it_waited_for_and_does_not_ask_again(
    orchestrator: Orchestrator, redis_url: str
) -> None:
    leases: Any = orchestrator.runtime.redis.named_leases
    asked: list[str] = []
    ask = leases._ask

    def counted(wanted: Any, token: str, left_s: float) -> Any:
        asked.append(token)
        return ask(wanted, token, left_s)

    with redis.Redis.from_url(redis_url) as client, orchestrator.monitors.session():
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
