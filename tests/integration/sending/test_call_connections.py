"""The connection on which a call sends its request and waits for the outcome."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from orchestrator import AgentDown, DeliveryTimeout, Mailbox, MailboxFull, Orchestrator
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.deliveries.outcome import Handled, to_wire
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.admission.flow_control import declare_flow
from tests.apps import calls_app
from tests.support.eventually import eventually

INCARNATION = "one@host:1#1"


@pytest.fixture
def client(own_redis_server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis.from_url(own_redis_server.url) as made:
        yield made


@pytest.fixture
def orchestrator(own_redis_server: EmbeddedServer, client: Any) -> Iterator[Orchestrator]:
    """As if a worker hosted the agent: what is asked is answered by the tests."""
    made = calls_app.make(own_redis_server.url)
    keys = made.runtime.store.keys
    client.hset(keys.incarnation(INCARNATION), "agents", json.dumps(["billing"]))
    client.zadd(keys.leases, {INCARNATION: 4e12})
    yield made
    made.app.close()


def call(orchestrator: Orchestrator, timeout_s: float = 60) -> Any:
    return orchestrator.call("billing", calls_app.Slowly(key="a"), timeout_s=timeout_s)


class Calls:
    """Calls in threads of their own."""

    def __init__(self, orchestrator: Orchestrator, count: int, ask: Callable[[Orchestrator], Any] = call) -> None:
        self.replies: list[Any] = []
        self._threads = [
            threading.Thread(target=lambda: self.replies.append(ask(orchestrator)), daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> list[Any]:
        for thread in self._threads:
            thread.join(20)
        return self.replies


def requests(orchestrator: Orchestrator, client: Any) -> list[str]:
    """The deliveries that wait in the mailbox."""
    store = orchestrator.runtime.store
    found = [entry for stream in store.streams("billing") for entry in client.xrange(stream)]
    return [json.loads(fields[b"m"])["headers"]["id"] for _, fields in found if b"m" in fields]


def accepted(orchestrator: Orchestrator, client: Any, count: int) -> list[str]:
    """The deliveries, once there are that many. Before its script is loaded, a request waits and is not accepted."""
    eventually(lambda: len(requests(orchestrator, client)) == count, 20)
    return requests(orchestrator, client)


def reply(orchestrator: Orchestrator, client: Any, delivery: str, result: Any) -> None:
    client.rpush(orchestrator.runtime.store.keys.outcome(delivery), json.dumps(to_wire(Handled(result))))


def blocked(client: Any) -> list[Any]:
    """The connections that wait for an outcome."""
    return [one for one in client.client_list() if one["cmd"] == "blmove" and "b" in one["flags"]]


def waits(client: Any, count: int) -> None:
    """That many connections wait for an outcome, at the latest once Redis has seen which ones were closed."""
    eventually(lambda: len(blocked(client)) == count, 20, lambda: str(blocked(client)))


def test_a_request_and_its_wait_go_over_one_connection(orchestrator: Orchestrator, client: Any) -> None:
    for number in range(3):
        calls = Calls(orchestrator, 1)
        delivery = accepted(orchestrator, client, number + 1)[-1]
        waits(client, 1)
        before = client.info("stats")["total_connections_received"]
        reply(orchestrator, client, delivery, number)
        assert calls.join() == [number]
        assert client.info("stats")["total_connections_received"] == before
        waits(client, 0)


def test_more_calls_than_a_pool_has_connections_each_get_their_own_reply(
    orchestrator: Orchestrator, client: Any
) -> None:
    # From then on it is known for a while who hosts the agent.
    with pytest.raises(DeliveryTimeout):
        call(orchestrator, timeout_s=0.1)
    calls = Calls(orchestrator, 12)
    found = accepted(orchestrator, client, 12)
    waits(client, 12)
    for number, delivery in enumerate(found):
        reply(orchestrator, client, delivery, number)
    assert sorted(calls.join()) == list(range(12))
    waits(client, 0)


def test_a_refused_request_leaves_nobody_waiting(orchestrator: Orchestrator, client: Any) -> None:
    store = orchestrator.runtime.store
    declare_flow(store, "billing", Flow(Mailbox(limit=1)), serves=True)
    first = Calls(orchestrator, 1)
    (delivery,) = accepted(orchestrator, client, 1)
    waits(client, 1)
    with pytest.raises(MailboxFull):
        call(orchestrator)
    waits(client, 1)
    reply(orchestrator, client, delivery, "done")
    assert first.join() == ["done"]


def test_a_request_to_a_host_that_has_just_died_leaves_nobody_waiting(orchestrator: Orchestrator, client: Any) -> None:
    with pytest.raises(DeliveryTimeout):
        call(orchestrator, timeout_s=0.1)
    client.zrem(orchestrator.runtime.store.keys.leases, INCARNATION)
    with pytest.raises(AgentDown):
        call(orchestrator)
    waits(client, 0)


@pytest.mark.parametrize("loses", ["the connection", "the scripts"])
def test_a_reply_comes_although_redis_loses(orchestrator: Orchestrator, client: Any, loses: str) -> None:
    if loses == "the scripts":
        # The first call has opened a connection whose server had them.
        with pytest.raises(DeliveryTimeout):
            call(orchestrator, timeout_s=0.1)
        client.script_flush()
    known = set(requests(orchestrator, client))
    calls = Calls(orchestrator, 1)
    accepted(orchestrator, client, len(known) + 1)
    waits(client, 1)
    if loses == "the connection":
        (waiter,) = blocked(client)
        client.client_kill_filter(_id=waiter["id"])
        waits(client, 1)
    (delivery,) = set(requests(orchestrator, client)) - known
    reply(orchestrator, client, delivery, "done")
    assert calls.join() == ["done"]


def test_who_gives_up_leaves_nobody_waiting(orchestrator: Orchestrator, client: Any) -> None:
    with pytest.raises(DeliveryTimeout):
        call(orchestrator, timeout_s=0.2)
    waits(client, 0)
    assert requests(orchestrator, client) == []
