"""A party whose worker died while it waited arrives again before anybody has found that: in the rule, and in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.core.coordination.barrier import Arriving, BarrierRecord, OnDeath, Reply, Status, Waiting
from orchestrator.core.coordination.lease import Life
from tests.support.coordination_under_test import close, make
from tests.support.flow import heard
from tests.support.owners_under_test import Owners

DEAD, LIVING = "w@h:1#1", "w@h:2#2"


class InRule:
    """The rule in Python."""

    def __init__(self) -> None:
        self._record, self._owners = BarrierRecord(), Owners([DEAD, LIVING])

    def arrive(self, request: Arriving) -> Reply:
        return self._record.arrive(request, 1_000, self._owners)

    def wait(self, generation: int, party: str, owner: str) -> Reply:
        return self._record.wait(generation, party, Waiting(owner, "", party), 1_000, self._owners)

    def kill(self) -> None:
        self._owners.lives[DEAD], self._owners.reasons[DEAD] = Life.DYING, "killed"

    def parties(self) -> tuple[set[str], set[str]]:
        """Who has arrived, and who is gone."""
        return set(self._record.arrived), set(self._record.gone)


class InRedis:
    """The scripts."""

    def __init__(self, url: str) -> None:
        self._orchestrator = make(url)
        self._client: Any = self._orchestrator.runtime.store.client
        self._keys = self._orchestrator.runtime.store.keys
        self._barriers = self._orchestrator.runtime.redis.barriers
        self._client.zadd(self._keys.leases, {DEAD: 1, LIVING: 1})

    def arrive(self, request: Arriving) -> Reply:
        return self._barriers.arrive("b", request, None, None)

    def wait(self, generation: int, party: str, owner: str) -> Reply:
        return self._barriers.wait("b", generation, party, Waiting(owner, "", party))

    def kill(self) -> None:
        """Fence it; its messages are requeued, and no death hook has run."""
        self._client.zrem(self._keys.leases, DEAD)
        self._client.zadd(self._keys.dying, {DEAD: 1})
        self._client.hset(self._keys.incarnation(DEAD), "reason", "killed")

    def parties(self) -> tuple[set[str], set[str]]:
        """Who has arrived, and who is gone."""
        state = self._barriers.read("b")
        assert state is not None
        return {one.party for one in state.present}, {party for party, _ in state.gone}

    def close(self) -> None:
        close(self._orchestrator)


@pytest.fixture(params=["rule", "redis"])
def barrier(request: pytest.FixtureRequest) -> Iterator[InRule | InRedis]:
    if request.param == "rule":
        yield InRule()
        return
    made = InRedis(request.getfixturevalue("redis_url"))
    yield made
    made.close()


@pytest.fixture
def again(barrier: InRule | InRedis) -> Callable[[OnDeath], Reply]:
    """Has a party arrive, wait beside another one, die, and arrive in the living worker; returns the last reply."""

    def arriving(party: str, token: str, owner: str, on_death: OnDeath) -> Arriving:
        return Arriving(party, party, token, owner, parties=3, on_death=on_death)

    def arrive_again(on_death: OnDeath) -> Reply:
        for party, owner in (("other", LIVING), ("again", DEAD)):
            generation = barrier.arrive(arriving(party, "1", owner, on_death)).generation
            # The second one has those who wait looked up, which is not done again within the next second.
            assert barrier.wait(generation, party, owner).status is Status.WAITING
        barrier.kill()
        return barrier.arrive(arriving("again", "2", LIVING, on_death))

    return arrive_again


def test_it_breaks_the_generation_in_which_it_waited(again: Callable[[OnDeath], Reply]) -> None:
    """Regression: it depended on who was first, the death hook or the requeued message."""
    reply = again(OnDeath.BREAK)
    assert reply.status is Status.ENDED
    assert reply.ended is not None
    assert (reply.ended.reason, reply.ended.party, reply.ended.arrived) == ("killed", "again", ("again", "other"))


def test_it_counts_again_where_a_generation_shrinks(
    barrier: InRule | InRedis, again: Callable[[OnDeath], Reply]
) -> None:
    with heard("barrier.shrunk") as shrunk:
        assert again(OnDeath.SHRINK).status is Status.WAITING
    assert barrier.parties() == ({"again", "other"}, set())
    # The rule alone emits nothing.
    lost = [("again", "killed")] if isinstance(barrier, InRedis) else []
    assert [(event.metadata["party"], event.metadata["reason"]) for event in shrunk] == lost
