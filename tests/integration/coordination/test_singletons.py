"""Of a singleton's workers one claims its messages; when it ends, the next one does, and runs what that one held."""

from __future__ import annotations

import json
import signal
from time import monotonic
from typing import Any

import pytest
import redis

from orchestrator import Handled, InvalidPolicy, Orchestrator
from orchestrator.core.admission.flow_policy import Flow, Mailbox
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.redis import commands
from tests.apps import singleton_app
from tests.apps.singleton_app import Cron, Number, Plain, Stay, Tick
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.singleton_app"
WORKER = {"queues": "cron,plain"}
ELECTION = "singleton:cron"


def result_of(sender: Orchestrator, agent: Any, message: Any, timeout_s: float = 20) -> Any:
    outcome = sender.send(agent, message).wait(timeout_s)
    assert isinstance(outcome, Handled)
    return outcome.result


def terms(server: EmbeddedServer) -> list[dict[str, Any]]:
    with redis.Redis.from_url(server.url) as client:
        found: Any = client.lrange("test:terms", 0, -1)
        return [json.loads(raw) for raw in found]


def test_one_claims_until_it_is_killed_and_then_the_next(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess]
) -> None:
    by = {result_of(sender, Cron, Tick(number=number)) for number in range(10)}
    assert len(by) == 1
    leader = sender.election(Cron).leader()
    assert leader is not None
    assert {leader.leader} == by
    assert result_of(sender, Plain, Tick(number=0)) in {worker.incarnation for worker in workers}
    eventually(lambda: len(terms(server)) == 1)
    assert terms(server)[0] == {
        "kind": "elected",
        "number": leader.number,
        "leader": leader.leader,
        "by": leader.leader,
    }

    (killed,) = [worker for worker in workers if worker.incarnation == leader.leader]
    (other,) = [worker for worker in workers if worker is not killed]
    stays = sender.send(Cron, Stay())
    with redis.Redis.from_url(server.url, socket_timeout=None) as client:
        client.blpop(["test:stays"], timeout=10)
        waits = [sender.send(Cron, Tick(number=number)) for number in range(5)]
        began = monotonic()
        killed.kill()
        raw: Any = client.blpop(["test:stays"], timeout=20)
        took_s = monotonic() - began
        assert json.loads(raw[1])["by"] == other.incarnation
        client.rpush("test:go", "1")
    assert took_s < 5
    for delivery in (stays, *waits):
        outcome = delivery.wait(20)
        assert isinstance(outcome, Handled)
        assert outcome.result == other.incarnation
    following = sender.election(Cron).leader()
    assert following is not None
    assert following.number > leader.number
    eventually(lambda: len(terms(server)) == 3)
    assert terms(server)[1:] == [
        {"kind": "deposed", "number": leader.number, "leader": leader.leader, "reason": "killed"},
        {"kind": "elected", "number": following.number, "leader": other.incarnation, "by": other.incarnation},
    ]
    ended = sender.election(Cron).observe(after=leader)
    assert ended is not None
    assert ended.reason == "killed"
    killed.start()


def test_a_leader_that_is_stopped_in_order_is_followed_by_the_next(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess]
) -> None:
    first = result_of(sender, Cron, Tick(number=0))
    (stopped,) = [worker for worker in workers if worker.is_running and worker.incarnation == first]
    stopped.stop()
    second = result_of(sender, Cron, Tick(number=1))
    assert second != first
    last = sender.election(Cron).last_term()
    assert last is not None
    assert last.leader == second
    ended = eventually(lambda: [term for term in terms(server) if term.get("reason") == "drained"])
    assert ended[-1]["leader"] == first


def test_a_handler_finds_the_term_in_which_it_leads(sender: Orchestrator, workers: list[WorkerProcess]) -> None:
    assert any(worker.is_running for worker in workers)
    found = result_of(sender, Cron, Number())
    leader = sender.election(Cron).leader()
    assert leader is not None
    assert found == [leader.number] * 2
    assert result_of(sender, Plain, Number()) is True


def test_a_handler_of_a_leader_that_was_followed_finds_no_term(
    server: EmbeddedServer, sender: Orchestrator, workers: list[WorkerProcess]
) -> None:
    for worker in workers:
        if not worker.is_running:
            worker.start()
    eventually(lambda: result_of(sender, Cron, Tick(number=0)) and sender.election(Cron).candidates())
    leader = sender.election(Cron).leader()
    assert leader is not None
    (stopped,) = [worker for worker in workers if worker.incarnation == leader.leader]
    delivery = sender.send(Cron, Number(waits=True))
    with redis.Redis.from_url(server.url, socket_timeout=None) as client:
        client.delete("test:stays", "test:numbers", "test:go")
        client.blpop(["test:stays"], timeout=10)
        stopped.signal(signal.SIGSTOP)
        client.blpop(["test:stays"], timeout=40)
        stopped.signal(signal.SIGCONT)
        client.rpush("test:go", "1", "1")
        outcome = delivery.wait(20)
        eventually(lambda: client.llen("test:numbers") == 2)
        found: Any = client.lrange("test:numbers", 0, -1)
    following = sender.election(Cron).leader()
    assert following is not None
    assert isinstance(outcome, Handled)
    assert outcome.result == [following.number] * 2
    numbers = {note["by"]: note["numbers"] for note in map(json.loads, found)}
    assert numbers == {leader.leader: [leader.number, None], following.leader: [following.number] * 2}


def test_only_a_singleton_has_an_election_of_its_own(sender: Orchestrator) -> None:
    with pytest.raises(InvalidPolicy, match="agent='plain' is not allowed; allowed: an agent with singleton = True"):
        sender.election(Plain)


def test_whoever_does_not_lead_gets_nothing_and_is_told_where(redis_url: str) -> None:
    made = singleton_app.make(redis_url)
    store = made.runtime.store
    client: Any = store.client
    k = store.keys
    declare_flow(store, "cron", Flow(Mailbox(5)), serves=True, election=ELECTION)
    declare_flow(store, "cron", Flow(), serves=False)
    declare_flow(store, "cron", Flow(), serves=True, election=ELECTION)
    assert {*client.hgetall(k.flow("cron"))} == {b"singleton", b"singleton_ms"}
    client.zadd(k.leases, {"a#1": 1, "b#2": 1})
    for agent in ("cron", "plain"):
        made.send(agent, Tick(number=1), track=False, when_down="queue")
    client.hset(f"{k.root}named:election:{ELECTION}", "o", "a#1")

    def claimed(incarnation: str) -> Any:
        return store.run(*commands.claim(k, ["cron", "plain"], store.levels, incarnation, 10, leased=True))

    first, *got = claimed("b#2")
    assert first == [-1, 2], "the first key of the mailbox that it does not lead"
    assert len(got) == 4
    client.hset(f"{k.root}named:election:{ELECTION}", mapping={"f": "7", "a": "6"})
    first, *_ = claimed("a#1")
    assert first == [-1, 2], "its term is not announced yet"
    client.hset(f"{k.root}named:election:{ELECTION}", "a", "7")
    first, *got = claimed("a#1")
    assert first == [-1]
    assert len(got) == 4
    made.app.close()
