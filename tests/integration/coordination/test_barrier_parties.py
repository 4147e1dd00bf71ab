"""Parties in real workers are killed while they wait, run out of time, or leave a message and hold no slot."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import redis

from orchestrator import BarrierBroken, Dead, Handled, Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.apps.barriers_app import Leave, Meet, MeetForEver
from tests.support.coordination_under_test import in_session
from tests.support.eventually import eventually
from tests.support.notes_in_redis import take_notes
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.barriers_app"
WORKER = {
    "pool": "prefork",
    "concurrency": 1,
    "environment": {"ORCHESTRATOR_LEASE_S": "2", "ORCHESTRATOR_KILL_AFTER_S": "0.5"},
}


def met(sender: Orchestrator, name: str, parties: int, on_death: Any = "break") -> Future[Any]:
    """The test's own party, that waits."""
    return in_session(sender, lambda: sender.barrier(name, parties, on_death=on_death).arrive("test").wait(60))


def waits(sender: Orchestrator, name: str, parties: int) -> None:
    def all_wait() -> bool:
        state = sender.barrier(name, parties).state()
        return state is not None and sum(bool(one.owner) for one in state.present) == parties

    eventually(all_wait, timeout_s=20)


def test_parties_that_leave_a_message_hold_no_slot(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    deliveries = [sender.send("party", Leave(barrier="left", parties=3)) for _ in range(3)]
    outcomes: list[Any] = [delivery.wait(30) for delivery in deliveries]
    assert [outcome.result for outcome in outcomes] == [False, False, True], "one slot is enough for three"
    assert {one["of"] for one in take_notes(server.url, "test:phase2", 3)} == {delivery.id for delivery in deliveries}
    take_notes(server.url, "test:met", 3)


def test_a_party_that_leaves_a_message_and_is_killed_counts_once(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    delivery = sender.send("party", Leave(barrier="twice", parties=2, waits=True))
    assert take_notes(server.url, "test:met") == [{"party": delivery.id, "redelivered": False}]
    worker.kill()
    worker.start()
    assert take_notes(server.url, "test:met") == [{"party": delivery.id, "redelivered": True}]
    state = sender.barrier("twice", 2).state()
    assert state is not None
    assert (state.arrived, state.missing) == (1, 1)
    generation = met(sender, "twice", 2).result(20)
    assert generation == state.generation
    with redis.Redis.from_url(server.url) as client:
        client.rpush("test:go", "1")
    assert take_notes(server.url, "test:phase2") == [{"of": delivery.id}]
    outcome = delivery.wait(20)
    assert isinstance(outcome, Handled)
    eventually(lambda: all(row.pending == 0 for row in sender.ledger()))
    with redis.Redis.from_url(server.url) as client:
        assert client.llen("test:phase2") == 0


def test_a_party_that_is_killed_while_it_waits_breaks_it_with_the_reason(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    delivery = sender.send("party", Meet(barrier="killed", parties=3))
    take_notes(server.url, "test:met")
    mine = met(sender, "killed", 3)
    waits(sender, "killed", 2)
    eventually(lambda: "barrier killed has 3 parties" in worker.log())
    assert "has 1 free slot; parties that arrive with then= need none" in worker.log()
    worker.kill()
    with pytest.raises(BarrierBroken, match=f"of party '{delivery.id}'; 1 missing") as error:
        mine.result(30)
    assert error.value.reason in ("killed", "lost")
    assert error.value.arrived == tuple(sorted((delivery.id, "test")))
    worker.start()
    outcome = delivery.wait(30)
    assert isinstance(outcome, Dead), "nobody has reset it"
    assert "is broken" in str(outcome.error)


def test_a_generation_that_shrinks_does_without_a_killed_party_and_lets_it_pass_later(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    delivery = sender.send("party", Meet(barrier="shrunk", parties=2, on_death="shrink"))
    first = {"party": delivery.id, "redelivered": False}
    eventually(lambda: first in take_notes(server.url, "test:met"))

    def is_waiting() -> bool:
        state = sender.barrier("shrunk", 2).state()
        return state is not None and bool(state.present) and bool(state.present[0].owner)

    eventually(is_waiting)
    worker.kill()
    with sender.monitors.session():

        def is_shrunk() -> bool:
            sender.runtime.redis.sweep()
            state = sender.barrier("shrunk", 2).state()
            return state is not None and [party for party, _ in state.gone] == [delivery.id]

        eventually(is_shrunk, timeout_s=20)
    generation = met(sender, "shrunk", 2, "shrink").result(20)
    worker.start()
    take_notes(server.url, "test:met")
    outcome = delivery.wait(30)
    assert isinstance(outcome, Handled), "it had passed: it does not wait for the next generation"
    assert outcome.result == generation


def test_a_child_that_is_killed_for_its_time_breaks_it_although_its_worker_lives(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    delivery = sender.send("party", MeetForEver(barrier="limit"))
    with pytest.raises(BarrierBroken, match=f"attempt ended of party '{delivery.id}'"):
        met(sender, "limit", 3).result(30)
