"""Workers of which some declare a singleton, and some host the same agent without declaring it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Handled, Orchestrator
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.redis import commands
from tests.apps import singleton_app
from tests.apps.singleton_app import Cron, Plain, Tick
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.singleton_app"
ELECTION = "singleton:cron"
TRUE, FALSE = "singleton = True", "singleton = False"


@pytest.fixture
def start(server: EmbeddedServer) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts a worker, which declares the singleton or does not."""
    started = []

    def start_one(name: str, *, declares: bool) -> WorkerProcess:
        environment = {"TEST_SINGLETON": "1" if declares else "0"}
        worker = WorkerProcess(APP, server.url, name=name, queues="cron,plain", environment=environment)
        started.append(worker)
        worker.start()
        eventually(lambda: worker.incarnation, timeout_s=30)
        return worker

    yield start_one
    for worker in started:
        worker.close()


def ran_by(sender: Orchestrator, agent: Any = Cron) -> set[str]:
    """The incarnations that handle twenty messages."""
    found = set()
    for delivery in [sender.send(agent, Tick(number=number), when_down="queue") for number in range(20)]:
        outcome = delivery.wait(20)
        assert isinstance(outcome, Handled)
        found.add(outcome.result)
    return found


def warnings(worker: WorkerProcess) -> list[str]:
    return [line for line in worker.log().splitlines() if "WARNING" in line and TRUE in line and FALSE in line]


def test_a_worker_that_does_not_declare_it_comes_and_goes_and_only_the_leader_claims(
    sender: Orchestrator, start: Callable[..., WorkerProcess]
) -> None:
    a, b = start("a", declares=True), start("b", declares=True)
    leader = ran_by(sender)
    assert leader in ({a.incarnation}, {b.incarnation})
    old = start("old", declares=False)
    assert ran_by(sender) == leader
    for worker in (a, b, old):
        (line,) = eventually(lambda: warnings(worker))  # noqa: B023
        assert "agent cron" in line
        assert old.incarnation in line
    assert old.incarnation in eventually(lambda: ran_by(sender, Plain) & {old.incarnation})
    old.stop()
    assert ran_by(sender) == leader
    (follower,) = [worker for worker in (a, b) if worker.incarnation not in leader]
    follower.stop()
    start("c", declares=True)
    assert ran_by(sender) == leader


def test_a_deploy_that_adds_it_has_only_the_leader_claim_from_its_warning_on(
    sender: Orchestrator, start: Callable[..., WorkerProcess]
) -> None:
    old = start("old", declares=False)
    assert ran_by(sender) == {old.incarnation}
    # A worker of another test may have declared it until then.
    before = len(warnings(old))
    new = start("new", declares=True)
    eventually(lambda: getattr(sender.election(Cron).leader(), "leader", None) == new.incarnation)
    (line,) = eventually(lambda: warnings(old)[before:])
    assert "agent cron" in line
    assert old.incarnation in line
    (line,) = eventually(lambda: warnings(new))
    assert old.incarnation in line
    assert new.incarnation in line
    assert ran_by(sender) == {new.incarnation}


def test_a_deploy_that_removes_it_has_all_claim_when_the_last_old_worker_has_ended(
    sender: Orchestrator, start: Callable[..., WorkerProcess]
) -> None:
    old = start("old", declares=True)
    new = start("new", declares=False)
    assert ran_by(sender) == {old.incarnation}
    old.kill()
    assert ran_by(sender) == {new.incarnation}


def test_a_worker_that_declares_it_never_claims_without_leading(redis_url: str) -> None:
    made = singleton_app.make(redis_url)
    store = made.runtime.store
    client, k = store.client, store.keys
    client.zadd(k.leases, {"a#1": 1, "b#2": 1})
    made.send("cron", Tick(number=1), track=False, when_down="queue")

    def claimed(incarnation: str) -> bool:
        return len(store.run(*commands.claim(k, ["cron"], store.levels, incarnation, 10, leased=True))) > 1

    def hosts(incarnation: str, *, declares: bool) -> None:
        client.hset(k.hosts("cron"), incarnation, 1)
        client.hset(k.incarnation(incarnation), "singletons", '["cron"]' if declares else "[]")

    declare_flow(store, "cron", Flow(), serves=True, election=ELECTION)
    hosts("b#2", declares=False)
    assert not claimed("b#2"), "one that has just declared it may not have sent a heartbeat"
    client.hset(k.flow("cron"), "singleton_ms", 1)
    declare_flow(store, "cron", Flow(), serves=True)
    assert not claimed("a#1"), "one that may declare it with its first heartbeat"
    hosts("a#1", declares=True)
    assert not claimed("a#1")
    assert not claimed("b#2")
    assert store.run(*commands.declare_singleton(k, "cron", ELECTION)) == [b"b#2"]
    client.zrem(k.leases, "a#1")
    client.hset(f"{k.root}named:election:{ELECTION}", "o", "a#1")
    assert not claimed("b#2"), "its messages may not be requeued yet"
    client.hdel(f"{k.root}named:election:{ELECTION}", "o")
    assert claimed("b#2")
    assert not client.exists(k.flow("cron"))
    assert store.run(*commands.declare_singleton(k, "cron", ELECTION)) == [b"b#2"]
    assert client.hget(k.flow("cron"), "singleton") == ELECTION.encode()
    made.app.close()
