"""Two real workers run no more messages of a key than its agent allows, also when one of them is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator import Cancelled, CancelResult, Handled, Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.apps.lanes_app import Get
from tests.support.eventually import eventually
from tests.support.notes_in_redis import take_notes
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.lanes_app"
WORKER = {"pool": "threads", "concurrency": 6}


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url, socket_timeout=None) as client:
        yield client


def go(client: Any, count: int) -> None:
    client.rpush("test:go", *[1] * count)


def state(sender: Orchestrator) -> Any:
    (found,) = [one for one in sender.mailboxes() if one.queue == "fetch"]
    return found


def ends(sender: Orchestrator, client: Any) -> None:
    """Nothing is pending, and nothing is left of permits and lanes."""
    eventually(lambda: all(row.pending == 0 for row in sender.ledger()), timeout_s=30)
    left = lambda: client.keys("orc:permits*") + client.keys("orc:lane:*")  # noqa: E731
    eventually(lambda: not left(), 10, lambda: str(left()))
    assert client.xlen("orc:q:lanes:fetch") == 0


def test_more_messages_of_a_key_wait_in_order_and_hold_no_slot(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess], client: Any
) -> None:
    deliveries = [sender.send("fetch", Get(tenant="a", number=number)) for number in range(6)]
    deliveries += [sender.send("fetch", Get(tenant=tenant, number=0)) for tenant in ("b", "c")]
    first = take_notes(server.url, "test:begun", 4)
    assert Counter(tenant for tenant, *_ in first) == {"a": 2, "b": 1, "c": 1}
    order = [number for tenant, number, _ in first if tenant == "a"]
    seen = eventually(lambda: (now := state(sender)).in_lanes == 4 and now)
    assert (seen.waiting, seen.held) == (4, 4)
    assert next(row for row in sender.ledger() if row.queue == "fetch").pending == 8
    assert client.llen("test:begun") == 0
    assert deliveries[5].status().value != "unknown"
    for _ in range(4):
        go(client, 1)
    # Of the four that end, each of a's lets one of a's go.
    while len(order) < 6:
        order += [number for tenant, number, _ in take_notes(server.url, "test:begun", 1) if tenant == "a"]
        go(client, 1)
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order[2:4]) == [2, 3] or order[2:] == [2, 3, 4, 5]
    outcomes: list[Any] = [delivery.wait(30) for delivery in deliveries]
    assert all(isinstance(outcome, Handled) for outcome in outcomes)
    client.delete("test:go")
    ends(sender, client)


def test_one_that_waits_in_its_lane_is_cancelled_and_one_that_is_retried_gives_way(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess], client: Any
) -> None:
    running = [sender.send("fetch", Get(tenant="a", number=number, fails=True)) for number in range(2)]
    take_notes(server.url, "test:begun", 2)
    third, fourth = (sender.send("fetch", Get(tenant="a", number=number)) for number in (2, 3))
    eventually(lambda: state(sender).in_lanes == 2)
    assert third.cancel() is CancelResult.CANCELLED
    assert isinstance(third.wait(10), Cancelled)
    go(client, 1)
    assert take_notes(server.url, "test:begun", 1)[0][1] == 3, "while the first waits for its next attempt"
    go(client, 6)
    for delivery in (*running, fourth):
        assert isinstance(delivery.wait(30), Handled)
    client.delete("test:go", "test:begun")
    ends(sender, client)


def test_a_killed_workers_messages_keep_their_permits(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess], client: Any
) -> None:
    deliveries = [sender.send("fetch", Get(tenant="a", number=number)) for number in range(5)]
    first = take_notes(server.url, "test:begun", 2)
    eventually(lambda: state(sender).in_lanes == 3)
    running_in = [incarnation for *_, incarnation in first]
    killed = [worker for worker in workers if worker.incarnation in running_in]
    lost = running_in.count(killed[0].incarnation)
    killed[0].kill()
    again = take_notes(server.url, "test:begun", lost)
    assert {number for _, number, _ in again} <= {0, 1}, "and no other message of the key has begun"
    assert client.llen("test:begun") == 0
    killed[0].start()
    go(client, 12)
    outcomes: list[Any] = [delivery.wait(30) for delivery in deliveries]
    assert [outcome.result for outcome in outcomes] == [0, 1, 2, 3, 4]
    client.delete("test:go", "test:begun")
    ends(sender, client)
