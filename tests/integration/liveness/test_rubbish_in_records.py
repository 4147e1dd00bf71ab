"""Values in Redis that this library did not write: they keep nobody from sending, and no death from being found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.maintenance.due_timers import DueTimers
from orchestrator.registry.registry import Registry
from tests.apps import shop as shop_app
from tests.apps.shop import Charge
from tests.support.coordination_under_test import in_session
from tests.support.eventually import eventually

RUBBISH = b"\xff\xfe{"


@pytest.fixture
def shop(redis_url: str) -> Iterator[Orchestrator]:
    made = shop_app.make(redis_url)
    yield made
    made.app.close()


def test_a_record_of_rubbish_keeps_nobody_from_sending(shop: Orchestrator) -> None:
    """Regression: each send and call in each process raised UnicodeDecodeError."""
    client: Any = shop.runtime.store.client
    client.zadd("orc:leases", {"w@h:1#1": 1, RUBBISH: 2})
    fields = ("node", "pid", "agents", "queues", "started_ms", "held", "host_load", "messages", "library_version")
    for owner in (b"w@h:1#1", RUBBISH):
        client.hset(b"orc:incarnation:" + owner, mapping=dict.fromkeys(fields, RUBBISH))
    client.hset("orc:agents", mapping={"other": "rubbish", "another": "[1]", RUBBISH: RUBBISH})
    registry = Registry(shop.runtime.store)
    assert list(registry.agents()) == []
    assert {entry.pid for entry in registry.incarnations()} == {0}
    assert [one.id for one in registry.outdated()] == ["w@h:1#1"]
    assert registry.host_of("billing", "billing") == ""
    assert shop.send("billing", Charge(order_id="o", cents=1)).id


def test_rubbish_among_the_leases_keeps_no_death_from_being_found(shop: Orchestrator) -> None:
    """Regression: each sweep ended with UnicodeDecodeError, so no death was found any more."""
    client: Any = shop.runtime.store.client
    sweeper = shop.runtime.store.sweeper()
    sweeper.sweep("before")
    client.hset("orc:incarnation:w@h:1#1", mapping={"node": "w", "queues": "[]"})
    client.zadd("orc:leases", {RUBBISH: 1, "w@h:1#1": 2})
    client.zadd("orc:dying", {RUBBISH: 1})
    client.hset("orc:sweep", mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    sweeper.sweep("test")
    assert client.zrange("orc:leases", 0, -1) == []
    assert client.zscore("orc:dying", "w@h:1#1") is not None


def test_rubbish_among_the_timers_keeps_no_other_from_its_turn(shop: Orchestrator) -> None:
    client: Any = shop.runtime.store.client
    done: list[str] = []

    def act(what: str) -> None:
        done.append(what)
        client.zrem("orc:timers", f"run:{what}")

    client.zadd("orc:timers", {RUBBISH: 1, "": 1, "run:u:1": 2})
    assert DueTimers(lambda: shop.runtime.store, {"run": act}).run() == 1
    assert done == ["u:1"]


def test_rubbish_among_what_a_dead_session_held_is_passed_over(shop: Orchestrator) -> None:
    client: Any = shop.runtime.store.client
    with shop.monitors.session() as session:
        shop.lease("a").acquire()
        client.sadd(f"orc:named-of:{session.id}", RUBBISH, "", "nope nope")
    state = shop.coordination.leases()[0]
    assert list(state.holders) == []
    assert not client.exists(f"orc:named-of:{session.id}")


def test_one_who_observes_an_election_outlasts_a_failover(shop: Orchestrator) -> None:
    """Regression: a replica that takes over, or gives up, ends what blocks in it with an error."""
    client: Any = shop.runtime.store.client
    with shop.monitors.session():
        led = shop.election("e").campaign()
        term = shop.election("e").leader()
        seen = in_session(shop, lambda: shop.election("e").observe(after=term, timeout_s=10))
        blocked = _blocked(client)
        assert client.client_unblock(blocked, error=True)
        led.resign()
        assert seen.result(10).reason == "resigned"


def _blocked(client: Any) -> int:
    """The connection that waits in XREAD."""
    return int(eventually(lambda: [one["id"] for one in client.client_list() if one["cmd"] == "xread"])[0])
