"""Who holds a lease may be killed, stopped, retried or cut off: whoever waits gets it, and nobody holds it twice."""

from __future__ import annotations

import os
import signal
from time import monotonic
from typing import Any

import pytest
import redis

from orchestrator import BrokerUnavailable, Handled, LeaseLost, Orchestrator, OwnerGone
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands
from tests.apps.leases_app import Hold, HoldForEver, Lead
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually
from tests.support.lost_answers import LostAnswers
from tests.support.notes_in_redis import take_notes
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.leases_app"
WORKER = {
    "pool": "prefork",
    "concurrency": 2,
    "environment": {"ORCHESTRATOR_LEASE_S": "2", "ORCHESTRATOR_KILL_AFTER_S": "0.5"},
}


def held(server: EmbeddedServer) -> dict[str, Any]:
    (note,) = take_notes(server.url, "test:held")
    found: dict[str, Any] = note
    return found


def go(server: EmbeddedServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.rpush("test:go", "1")


def test_a_child_that_is_killed_for_its_time_holds_nothing_although_its_worker_lives(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    sender.send("holder", HoldForEver(name="limit"))
    first = held(server)
    incarnation = worker.incarnation
    with sender.monitors.session(), sender.lease("limit", wait_s=10) as lease:
        assert lease.fence > first["fence"]
    assert first["owner"] == incarnation == worker.incarnation


def test_tasks_that_acknowledge_early_are_different_owners(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    early = sender.app.tasks["hold_early"]
    early.delay("early", False)
    first = held(server)
    # In the worker's other process.
    early.delay("early", True)
    assert held(server) == {"refused": True}
    go(server)
    with sender.monitors.session(), sender.lease("early", wait_s=10) as lease:
        assert lease.fence > first["fence"]


def test_a_handler_that_fails_leads_no_more_at_once(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    outcome = sender.send("holder", Lead(name="retried")).wait(20)
    assert isinstance(outcome, Handled)
    last = sender.election("retried").last_term()
    assert last is not None
    assert (last.number, last.reason) == (outcome.result, "attempt ended")


def test_a_holder_that_was_stopped_for_longer_than_its_lease_finds_it_lost(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    delivery = sender.send("holder", Hold(name="stopped"))
    first = held(server)
    os.killpg(worker.pid, signal.SIGSTOP)
    try:
        with sender.monitors.session(), sender.lease("stopped", wait_s=20) as lease:
            assert lease.fence > first["fence"]
            os.killpg(worker.pid, signal.SIGCONT)
            go(server)
            eventually(lambda: "fenced: it was declared dead" in worker.log(), timeout_s=20)
            lease.check()
    finally:
        os.killpg(worker.pid, signal.SIGCONT)
    assert held(server)["fence"] > lease.fence
    go(server)
    outcome = delivery.wait(20)
    assert isinstance(outcome, Handled), "the message was requeued, and handled by the next incarnation"
    assert outcome.result == "held"


def test_a_killed_holders_lease_goes_to_the_next(
    server: EmbeddedServer, sender: Orchestrator, worker: WorkerProcess
) -> None:
    sender.send("holder", Hold(name="killed"))
    first = held(server)
    took_s = []
    with sender.monitors.session():
        lease = sender.lease("killed", wait_s=20)
        began = monotonic()
        worker.kill()
        with lease:
            took_s.append(monotonic() - began)
            assert lease.fence > first["fence"]
    assert took_s[0] < 6, "with no other worker, a session sweeps after three seconds"
    worker.start()
    held(server)
    go(server)


def test_an_owner_that_was_declared_dead_is_granted_nothing(redis_url: str) -> None:
    made = make(redis_url)
    store = made.runtime.store
    try:
        with made.monitors.session() as session, made.lease("a") as lease:
            assert store.run(*commands.fence(store.keys, session.id, "killed", "test"))
            with pytest.raises(LeaseLost):
                lease.check()
            with pytest.raises(OwnerGone, match="has ended or was declared dead"):
                made.lease("b", wait_s=60).acquire()
            made.runtime.redis.sweep()
            assert not lease.release()
            assert [state.name for state in made.coordination.leases() if state.holders] == []
    finally:
        close(made)


def test_an_answer_that_is_lost_grants_nothing_twice(redis_url: str) -> None:
    with LostAnswers(redis_url) as proxy:
        cut, plain = make(proxy.url), make(redis_url)
        try:
            with cut.monitors.session():
                cut.coordination.semaphores()
                pool = cut.pool("gpu", ["gpu0", "gpu1"])
                proxy.lose(2, "pool", done_first=True)
                with pool.checkout(wait_s=10) as held:
                    (state,) = plain.coordination.pools()
                    assert [holder.resource for holder in state.holders] == [held.resource]
                    assert proxy.left == 0
                    proxy.lose(1, held._held.token, done_first=True)
                    assert held.release() or proxy.left == 0
                eventually(lambda: not plain.coordination.pools()[0].holders)
        finally:
            close(cut)
            close(plain)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_hand_over_whose_answer_is_lost_is_one_when_it_is_repeated(redis_url: str, lost: int) -> None:
    with LostAnswers(redis_url) as proxy:
        cut, plain = make(proxy.url), make(redis_url)
        try:
            with cut.monitors.session():
                leadership = cut.election("scheduler").campaign()
                campaign = in_session(plain, lambda: plain.election("scheduler").campaign(wait_s=20).number)
                (candidate,) = eventually(lambda: plain.election("scheduler").candidates())
                proxy.lose(lost, leadership._held.token, done_first=True)
                try:
                    is_handed_over = leadership.resign(to=candidate)
                except BrokerUnavailable:
                    is_handed_over = leadership.resign(to=candidate)
                assert is_handed_over
                assert proxy.left == 0
                assert campaign.result(10) > leadership.number
        finally:
            close(cut)
            close(plain)


def test_a_release_that_redis_did_not_answer_is_repeated(redis_url: str) -> None:
    with LostAnswers(redis_url) as proxy:
        cut, plain = make(proxy.url), make(redis_url)
        try:
            with cut.monitors.session():
                lease = cut.lease("a").acquire()
                proxy.lose(3, lease._held.token, done_first=False)
                assert not lease.release()
                eventually(lambda: not plain.coordination.leases()[0].holders)
                with pytest.raises(LeaseLost):
                    lease.check()
        finally:
            close(cut)
            close(plain)
