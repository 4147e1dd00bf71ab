"""Voters of which nobody lives, or that die while they vote: the others decide, at the latest at the ballot's time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from orchestrator import Majority, Quorum, Unanimous, Vote
from orchestrator.embedded import EmbeddedServer
from tests.apps import ballots_app
from tests.apps.ballots_app import VOTERS, says
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.ballots_app"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A worker that hosts a and b; c has none of its own."""
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool="threads", concurrency=8, queues="a,b") as worker,
    ):
        made = Cluster(server.url, worker, ballots_app.make(server.url))
        yield made
        made.close()


def test_a_voter_that_nobody_hosts_is_silent_and_not_waited_for_if_the_others_decide(cluster: Cluster) -> None:
    began = monotonic()
    decision = cluster.orchestrator.propose(says(), VOTERS, Majority(), timeout_s=60).wait(30)
    assert monotonic() - began < 30
    assert (decision.accepted, decision.missing) == (True, {"c": "not needed"})
    # The two that are hosted have voted by then.
    late = cluster.orchestrator.propose(says(), VOTERS, Unanimous(), timeout_s=3).wait(30)
    assert (late.accepted, late.how, late.missing) == (True, "timeout", {"c": "timeout"})
    strict = cluster.orchestrator.propose(says(), VOTERS, Unanimous(), timeout_s=1, silent="reject").wait(30)
    assert not strict.accepted
    enough = cluster.orchestrator.propose(says(), VOTERS, Quorum(3), timeout_s=1).wait(30)
    assert not enough.accepted


def test_a_voter_that_dies_for_good_while_it_votes_is_silent_at_the_time(cluster: Cluster) -> None:
    with WorkerProcess(APP, cluster.url, name="w2", queues="c") as dies:
        ballot = cluster.orchestrator.propose(says(c="wait"), VOTERS, Unanimous(), timeout_s=6)
        eventually(lambda: cluster.redis.llen("test:asked:c"), 20)
        eventually(lambda: ballot.state().approved == 2, 20)
        dies.kill()
        decision = ballot.wait(30)
    assert (decision.accepted, decision.how, decision.missing) == (True, "timeout", {"c": "timeout"})
    assert decision.votes == {"a": Vote.approve(), "b": Vote.approve()}


def test_many_ballots_at_once_are_each_decided_by_their_own_votes(cluster: Cluster) -> None:
    """Of 50, some voters fail, and some are against it."""
    orchestrator = cluster.orchestrator
    before = orchestrator.coordination.stats()
    kinds: list[tuple[dict[str, str], bool]] = [
        ({}, True), ({"a": "reject"}, False), ({"b": "raise"}, True), ({"a": "raise", "b": "raise"}, False),
        ({"a": "raise", "b": "reject"}, False),
    ]  # fmt: skip

    def one(number: int) -> Any:
        says_what, expected = kinds[number % len(kinds)]
        ballot = orchestrator.propose(says(**says_what), ["a", "b"], Unanimous(), timeout_s=60)
        return ballot.wait(60), expected

    with ThreadPoolExecutor(10) as pool:
        decided = list(pool.map(one, range(50)))
    assert len({decision.ballot for decision, _ in decided}) == 50
    for decision, expected in decided:
        assert decision.accepted is expected, decision
    after = orchestrator.coordination.stats()
    assert (after.ballots - before.ballots, after.open_ballots) == (50, before.open_ballots)

    def told() -> bool:
        found = [json.loads(raw)["ballot"] for raw in cluster.redis.lrange("test:decided:a", 0, -1)]
        return all(found.count(decision.ballot) == 1 for decision, _ in decided)

    eventually(told, 30, cluster.log)


def test_what_is_left_of_many_ballots_expires_and_the_worker_does_not_grow(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator

    def decide(count: int) -> None:
        for _ in range(count):
            assert orchestrator.propose(says(), ["a", "b"], Majority(), timeout_s=60).wait(30).accepted
        eventually(lambda: cluster.row("a").pending == cluster.row("b").pending == 0, 30, cluster.log)
        cluster.redis.delete("test:asked:a", "test:asked:b", "test:decided:a", "test:decided:b")

    def lasting() -> dict[bytes, int]:
        """Keys that do not expire, and their bytes. Ballots stay listed for as long as they are kept."""
        keys = [key for key in cluster.redis.keys("*") if cluster.redis.pttl(key) == -1]
        return {key: cluster.redis.memory_usage(key, samples=0) or 0 for key in keys}

    def rss_kb() -> int:
        status = Path(f"/proc/{cluster.worker.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    decide(100)
    keys, size_kb = lasting(), rss_kb()
    decide(200)
    grown = lasting()
    listed = cluster.keys.ballots.encode()
    # Of a sweep there is one key, whenever there is one.
    assert grown.keys() - keys.keys() <= {cluster.keys.sweep.encode()}
    assert grown.pop(listed) - keys.pop(listed) < 200 * 200
    assert sum(grown.values()) - sum(keys.values()) < 20_000
    assert rss_kb() - size_kb < 10_000
