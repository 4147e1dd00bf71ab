"""Each term that somebody took is announced once when it has ended, by the next leader that is announced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from orchestrator.agents.singleton import singleton_election
from orchestrator.coordination.candidates import Candidates
from orchestrator.coordination.named_leases import Wanted
from orchestrator.coordination.redis_named_leases import RedisNamedLeases
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.coordination.term import Term
from orchestrator.worker.execution.owner import Owner
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually

ELECTION = singleton_election("cron")
#: Workers, by their incarnations.
WORKERS = ("a@h:1#1", "b@h:2#2", "c@h:3#3", "d@h:4#4")


class Cluster:
    """A singleton's workers without their processes."""

    def __init__(self, leases: RedisNamedLeases) -> None:
        self.leases = leases
        #: What the agent was called with: the kind of call, the number of the term, and why it ended.
        self.told: list[tuple[str, int, str]] = []

    def write(self, agent: str, name: str, term: Term) -> None:
        self.told.append((name, term.number, term.reason))

    @contextmanager
    def campaigning(self, incarnation: str) -> Iterator[Candidates]:
        """A worker's candidates."""
        made = Candidates(["cron"], lambda: self.leases, self.write, lambda: incarnation, lambda _: ())
        made.start()
        try:
            yield made
        finally:
            made.stop()

    def elected(self) -> list[int]:
        """The terms that were announced, the first one first."""
        return [number for name, number, _ in self.told if name == "on_elected"]

    def lead(self, incarnation: str, number: int) -> None:
        """Lead until a term is announced, which is the one with that place."""
        with self.campaigning(incarnation):
            eventually(lambda: len(self.elected()) == number)

    def wait(self, incarnation: str) -> tuple[Wanted, str]:
        """Stand in the line, and do nothing more."""
        wanted = Wanted(Kind.ELECTION, ELECTION, Owner(incarnation, "cron"), 60)
        assert self.leases.ask(wanted, f"of-{incarnation}", 60) is None
        return wanted, f"of-{incarnation}"

    def waiting(self) -> int:
        """How many wait."""
        state = self.leases.read(Kind.ELECTION, ELECTION)
        return 0 if state is None else state.waiting

    def kill(self, incarnation: str) -> None:
        """Prove a death."""
        assert self.leases.on_death(incarnation, "killed")


@pytest.fixture
def cluster(redis_url: str) -> Iterator[Cluster]:
    orchestrator = make(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.zadd(orchestrator.runtime.store.keys.leases, dict.fromkeys(WORKERS, 1))
    yield Cluster(orchestrator.runtime.redis.named_leases)
    close(orchestrator)


def test_a_term_that_nobody_took_hides_none_before_it_and_is_not_announced(cluster: Cluster) -> None:
    first, second, third, fourth = WORKERS
    cluster.lead(first, 1)
    hangs = cluster.wait(second)
    with cluster.campaigning(third):
        eventually(lambda: cluster.waiting() == 2)
        cluster.kill(first)
        cluster.leases.withdraw(*hangs)
        eventually(lambda: len(cluster.elected()) == 2)
    one, three = cluster.elected()
    assert cluster.told == [("on_elected", one, ""), ("on_deposed", one, "killed"), ("on_elected", three, "")]
    cluster.kill(third)
    cluster.lead(fourth, 3)
    assert cluster.told[3:] == [("on_deposed", three, "killed"), ("on_elected", cluster.elected()[2], "")]


def test_a_term_whose_leader_died_before_it_announced_anything_is_announced_with_the_one_before(
    cluster: Cluster,
) -> None:
    first, second, third, _ = WORKERS
    cluster.lead(first, 1)
    wanted, token = cluster.wait(second)
    cluster.kill(first)
    silent = cluster.leases.ask(wanted, token, 60)
    assert silent is not None
    cluster.kill(second)
    cluster.lead(third, 2)
    one, three = cluster.elected()
    assert cluster.told[1:] == [
        ("on_deposed", one, "killed"),
        ("on_deposed", silent.fence, "killed"),
        ("on_elected", three, ""),
    ]
