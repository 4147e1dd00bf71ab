"""Calls that would wait for themselves are found and named, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from orchestrator import CallWouldDeadlock, Dead, Handled
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import source
from tests.apps import rings_app
from tests.apps.rings_app import Time, Turn
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

KEYS = Keys()


class Places:
    """Workers and their waits, as Redis has them."""

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url)

    def worker(self, name: str, *queues: str, slots: int = 1) -> None:
        """A living worker."""
        self.redis.zadd(KEYS.leases, {name: 1})
        self.redis.hset(KEYS.incarnation(name), mapping={"queues": json.dumps(queues), "concurrency": slots or ""})

    def wait(self, worker: str, agent: str, callee: str, delivery: str) -> list[str]:
        """A handler calls; returns the ring."""
        _, names, args = commands.begin_wait(KEYS, worker, delivery, callee, agent)
        ring: Any = self.redis.eval(source("begin_wait"), len(names), *names, *args)
        return [raw.decode() for raw in ring]

    def end(self, worker: str, delivery: str = "") -> int:
        """It waits no more."""
        _, names, args = commands.end_waits(KEYS, worker, delivery)
        return int(self.redis.eval(source("end_waits"), len(names), *names, *args))


@pytest.fixture
def places(redis_url: str) -> Iterator[Places]:
    made = Places(redis_url)
    yield made
    made.redis.close()


def test_two_agents_that_call_each_other(places: Places) -> None:
    places.worker("w1", "a")
    places.worker("w2", "b")
    assert places.wait("w1", "a", "b", "1") == []
    assert places.wait("w2", "b", "a", "2") == ["b", "a", "b"]
    assert places.end("w2", "2") == 1
    # As before, once that is over.
    assert places.wait("w2", "b", "c", "3") == []


def test_an_agent_that_calls_itself(places: Places) -> None:
    places.worker("w1", "a")
    assert places.wait("w1", "a", "a", "1") == ["a", "a"]
    places.worker("w2", "a")
    assert places.wait("w1", "a", "a", "1") == []


def test_a_ring_of_three(places: Places) -> None:
    for name in "abc":
        places.worker(f"w{name}", name)
    assert places.wait("wa", "a", "b", "1") == []
    assert places.wait("wb", "b", "c", "2") == []
    assert places.wait("wc", "c", "a", "3") == ["c", "a", "b", "c"]


def test_a_free_slot_anywhere_answers(places: Places) -> None:
    places.worker("w1", "a", slots=2)
    places.worker("w2", "b")
    assert places.wait("w1", "a", "b", "1") == []
    assert places.wait("w2", "b", "a", "2") == []
    # The other slot of the first waits for somebody who is free.
    places.worker("w3", "c")
    assert places.wait("w1", "a", "c", "3") == []
    assert places.wait("w2", "b", "a", "2") == []
    # Now for one that waits, too.
    assert places.wait("w3", "c", "b", "4") == ["c", "b", "a", "c"]


def test_who_waits_for_a_ring_of_others_is_in_none(places: Places) -> None:
    for name in "abc":
        places.worker(f"w{name}", name)
    places.wait("wa", "a", "b", "1")
    assert places.wait("wb", "b", "a", "2") == ["b", "a", "b"]
    assert places.wait("wc", "c", "a", "3") == []


def test_memories_are_no_waits(places: Places) -> None:
    places.worker("w1", "a")
    places.worker("w2", "b")
    places.wait("w1", "a", "b", "1")
    places.redis.rpush(KEYS.outcome("1"), "{}")
    assert places.wait("w2", "b", "a", "2") == []
    places.redis.delete(KEYS.outcome("1"))
    places.redis.zrem(KEYS.leases, "w1")
    assert places.wait("w2", "b", "a", "2") == []
    assert places.redis.hlen(KEYS.asking) == 1
    assert places.end("w2") == 1
    assert not places.redis.exists(KEYS.asking)


def test_what_is_not_known_is_no_ring(places: Places) -> None:
    places.worker("w1", "a", slots=0)
    places.worker("w2", "b")
    places.wait("w1", "a", "b", "1")
    assert places.wait("w2", "b", "a", "2") == []
    # Nobody serves it.
    assert places.wait("w2", "b", "nobody", "3") == []


@pytest.fixture(scope="module")
def rings() -> Iterator[Cluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.rings_app", server.url, name="left", queues="left") as left,
        WorkerProcess("tests.apps.rings_app", server.url, name="right", queues="right") as right,
    ):
        cluster = Cluster(server.url, right, rings_app.make(server.url))
        # Slots are known by the second heartbeat.
        eventually(lambda: [one.concurrency for one in cluster.orchestrator.registry.incarnations()] == [1, 1])
        yield cluster
        assert left.is_running
        cluster.close()


def test_a_ring_of_real_workers_is_an_error(rings: Cluster) -> None:
    assert rings.orchestrator.call("left", Turn(to=["right"]), timeout_s=20) == "right"
    outcome = rings.orchestrator.send("left", Turn(to=["right", "left"])).wait(timeout_s=30)
    assert isinstance(outcome, Dead)
    assert "CallWouldDeadlock: the call would wait for itself: right → left → right" in outcome.error
    assert not rings.redis.exists(rings.keys.asking)
    assert str(CallWouldDeadlock(["a", "b", "a"])).startswith("the call would wait for itself: a → b → a")


def test_a_ring_of_real_workers_is_a_warning(rings: Cluster) -> None:
    turn = Turn(to=["right", "left"], on_deadlock="warn", timeout_s=2)
    outcome = rings.orchestrator.send("left", turn).wait(timeout_s=30)
    assert isinstance(outcome, Dead)
    assert "call of left.Turn by right waits for itself: right → left → right" in rings.log()
    eventually(lambda: not rings.redis.exists(rings.keys.asking))
    assert isinstance(rings.orchestrator.send("left", Turn(to=["right"])).wait(timeout_s=20), Handled)


def test_a_deadline_shrinks_from_process_to_process(rings: Cluster) -> None:
    first, second = rings.orchestrator.call("left", Time(to=["right"]), timeout_s=8)
    assert 0 < second < first < 8
