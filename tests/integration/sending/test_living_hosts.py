"""A message for a living agent only: the script that accepts it looks whether the worker lives that was known to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import redis

from orchestrator import (
    AgentDown,
    Ask,
    DeliveryTimeout,
    NotEnoughReplies,
    Orchestrator,
    OutdatedWorker,
    Send,
    UnknownAgent,
    Value,
)
from orchestrator.registry import registering
from tests.apps import calls_app
from tests.support.eventually import eventually
from tests.support.timing import least_s

ONE, OTHER = "one@host:1#1", "other@host:2#2"

SLOWLY = calls_app.Slowly(key="a")


@pytest.fixture
def client(counted_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(counted_url) as made:
        yield made


@pytest.fixture
def orchestrator(counted_url: str) -> Iterator[Orchestrator]:
    made = calls_app.make(counted_url)
    yield made
    made.app.close()


def join(orchestrator: Orchestrator, client: Any, incarnation: str) -> None:
    """As if a worker hosted the agent."""
    keys = orchestrator.runtime.store.keys
    client.hset(keys.incarnation(incarnation), "agents", json.dumps(["billing"]))
    client.zadd(keys.leases, {incarnation: 4e12})


def leave(orchestrator: Orchestrator, client: Any, incarnation: str) -> None:
    client.zrem(orchestrator.runtime.store.keys.leases, incarnation)


def send(orchestrator: Orchestrator) -> None:
    orchestrator.send("billing", SLOWLY, when_down="error")


def accepted(orchestrator: Orchestrator, client: Any) -> int:
    return int(client.hget(orchestrator.runtime.store.keys.ledger("billing"), "accepted") or 0)


def until_accepted(orchestrator: Orchestrator, client: Any, count: int, ask: Callable[[], object]) -> None:
    """Ask until Redis has accepted so many: on a busy machine, the time may be over before the first is sent."""

    def are_accepted() -> bool:
        with pytest.raises((DeliveryTimeout, NotEnoughReplies)):
            ask()
        return accepted(orchestrator, client) >= count

    eventually(are_accepted)
    assert accepted(orchestrator, client) == count


def test_an_agent_that_has_just_died_is_refused_although_it_was_known_to_live(
    orchestrator: Orchestrator, client: Any
) -> None:
    with pytest.raises(AgentDown):
        send(orchestrator)
    join(orchestrator, client, ONE)
    send(orchestrator)
    leave(orchestrator, client, ONE)
    with pytest.raises(AgentDown):
        send(orchestrator)
    with pytest.raises(AgentDown):
        orchestrator.call("billing", SLOWLY, timeout_s=5)
    assert accepted(orchestrator, client) == 1


def report_alive(orchestrator: Orchestrator, client: Any, reason: str) -> None:
    """As a process does that finds out that its incarnation was declared dead."""
    death = {"incarnation": ONE, "reason": reason, "by": ONE, "agents": json.dumps(["billing"])}
    client.xadd(orchestrator.runtime.store.keys.deaths, death)


@pytest.mark.parametrize("reason", ["fenced", "dataset_lost"])
def test_a_host_that_was_declared_dead_and_lives_is_waited_for_until_it_has_registered_anew(
    orchestrator: Orchestrator, client: Any, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Regression: its callers got AgentDown for the moment in which it connects again."""
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            join(orchestrator, client, OTHER)

    monkeypatch.setattr(registering, "sleep", pause)
    report_alive(orchestrator, client, reason)
    send(orchestrator)
    assert len(looks) == 2
    assert accepted(orchestrator, client) == 1


def test_a_host_that_has_reported_and_does_not_register_is_waited_for_at_most_a_second(
    orchestrator: Orchestrator, client: Any
) -> None:
    report_alive(orchestrator, client, "fenced")

    def call() -> None:
        with pytest.raises(AgentDown):
            orchestrator.call("billing", SLOWLY, timeout_s=0.2)

    assert least_s(call) < 0.8, "no longer than the caller waits"
    began = monotonic()
    with pytest.raises(AgentDown):
        send(orchestrator)
    assert monotonic() - began < 5


def test_a_host_that_was_killed_is_not_waited_for(
    orchestrator: Orchestrator, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "sleep", lambda _: pytest.fail("waited"))
    report_alive(orchestrator, client, "killed")
    with pytest.raises(AgentDown):
        send(orchestrator)


@pytest.mark.parametrize(
    "fallback",
    [True, [Value(1)], [Ask("billing"), Value(1)], [Send(durable=True)]],
    ids=["send", "value", "ask", "durable send"],
)
def test_for_an_agent_that_nobody_knows_no_fallback_is_tried(
    orchestrator: Orchestrator, client: Any, fallback: Any
) -> None:
    join(orchestrator, client, ONE)
    with pytest.raises(UnknownAgent, match="biling"):
        orchestrator.call("biling", SLOWLY, timeout_s=5, fallback=fallback)
    assert accepted(orchestrator, client) == 0
    # One that is known, and down, has them.
    assert orchestrator.call("alone", calls_app.Quote(number=1), timeout_s=0.2, fallback=[Value(1)]) == 1


def test_another_worker_of_the_agent_does_as_well(orchestrator: Orchestrator, client: Any) -> None:
    join(orchestrator, client, ONE)
    send(orchestrator)
    join(orchestrator, client, OTHER)
    leave(orchestrator, client, ONE)
    send(orchestrator)
    assert accepted(orchestrator, client) == 2


def test_who_lives_is_read_once_for_many_calls(orchestrator: Orchestrator, client: Any) -> None:
    join(orchestrator, client, ONE)
    send(orchestrator)
    client.config_resetstat()
    for _ in range(20):
        send(orchestrator)
    # Once more at most, where two seconds have passed.
    assert int(client.info("commandstats").get("cmdstat_zrange", {"calls": 0})["calls"]) <= 1
    until_accepted(orchestrator, client, 22, lambda: orchestrator.call("billing", SLOWLY, timeout_s=0.2))


def test_an_ask_is_refused_while_a_worker_lives_that_would_send_no_reply(
    orchestrator: Orchestrator, client: Any
) -> None:
    join(orchestrator, client, ONE)
    described = {"queues": json.dumps(["billing"]), "library_version": "0.0.9"}
    client.hset(orchestrator.runtime.store.keys.incarnation(ONE), mapping=described)
    with pytest.raises(OutdatedWorker, match=r"one@host:1#1, of version 0\.0\.9 .* 'billing', and would send no reply"):
        orchestrator.ask_all(["billing"], SLOWLY, timeout_s=5)
    assert accepted(orchestrator, client) == 0
    client.hset(orchestrator.runtime.store.keys.incarnation(ONE), "releases_steps", "1")
    orchestrator.registry._outdated_at = 0.0
    until_accepted(orchestrator, client, 1, lambda: orchestrator.ask_all(["billing"], SLOWLY, timeout_s=0.1))


def test_a_caller_that_allows_little_age_leaves_a_reply_for_those_that_allow_more(
    orchestrator: Orchestrator, client: Any
) -> None:
    replies = orchestrator.runtime.redis.backend.stale
    key = orchestrator.runtime.store.keys.stale_reply("a")
    replies.remember("a", {"cents": 1}, 60_000)
    replies.remember("a", {"cents": 2}, 50)
    assert client.pttl(key) > 50_000
    assert replies.recall("a", 60_000) == ({"cents": 2},)
    client.pexpire(key, 30_000)
    # By what is left of its time it is thirty seconds old now.
    assert replies.recall("a", 29_000) is None
    assert replies.recall("a", 31_000) == ({"cents": 2},)
