"""Votes that are the decision of another ballot: from the members of a hierarchy to its top, and in a ring."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator import Vote
from orchestrator.embedded import EmbeddedServer
from tests.apps import delegated_votes_app
from tests.apps.delegated_votes_app import BELOW, Plan, ask
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.delegated_votes_app"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A worker for those who ask others, and one for those who vote for themselves."""
    members = [agent.name for agent in delegated_votes_app.MEMBERS]
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="w1", pool="threads", concurrency=8, queues=",".join(BELOW)) as delegates,
        WorkerProcess(APP, server.url, name="w2", pool="threads", concurrency=8, queues=",".join(members)),
    ):
        made = Cluster(server.url, delegates, delegated_votes_app.make(server.url))
        yield made
        made.close()


def asked(cluster: Cluster) -> list[str]:
    return [raw.decode() for raw in cluster.redis.lrange("test:asked", 0, -1)]


@pytest.mark.parametrize(
    ("against", "leads"),
    [
        ([], {"lead-1": True, "lead-2": True}),
        (["m1"], {"lead-1": True, "lead-2": True}),
        # Of lead-2's two members one is against it: a tie. Of all five members three are for it.
        (["m1", "m5"], {"lead-1": True, "lead-2": False}),
        (["m1", "m2"], {"lead-1": False, "lead-2": True}),
    ],
)
def test_what_members_decide_is_their_leads_vote(cluster: Cluster, against: list[str], leads: dict[str, bool]) -> None:
    key = f"against {against}"
    decision = ask(cluster.orchestrator, Plan(key=key, against=tuple(against)), "chief").wait(40)
    assert decision.accepted is all(leads.values())
    below: Any = cluster.orchestrator.coordination.ballot(f"{key} below chief").wait(1)
    for lead, vote in below.votes.items():
        assert vote.approves is leads[lead], below
    assert set(below.votes) | set(below.missing) == set(leads)


def test_a_lead_that_is_killed_while_its_members_vote_asks_nobody_twice(cluster: Cluster) -> None:
    cluster.redis.delete("test:asked")
    ballot = ask(cluster.orchestrator, Plan(key="killed", stays="m4"), "chief")
    eventually(lambda: sorted(asked(cluster)) == ["chief", "lead-1", "lead-2", "m1", "m2", "m3", "m4", "m5"], 20)
    cluster.worker.kill()
    cluster.redis.rpush("test:go", "1")
    cluster.worker.start()
    decision = ballot.wait(40)
    assert decision.votes == {"chief": Vote.approve()}, decision
    assert [name for name in asked(cluster) if name.startswith("m")].count("m4") == 1
    assert sorted(name for name in asked(cluster) if name.startswith("m")) == ["m1", "m2", "m3", "m4", "m5"]


def test_two_that_ask_each_other_end_at_their_time(cluster: Cluster) -> None:
    began = monotonic()
    decision = ask(cluster.orchestrator, Plan(key="ring", timeout_s=1), "x").wait(30)
    assert not decision.accepted
    assert monotonic() - began < 20
    ring: Any = cluster.orchestrator.coordination.ballot("ring below x").wait(1)
    assert (ring.accepted, ring.missing) == (False, {"y": "timeout"}) or not ring.votes["y"].approves
    eventually(lambda: all(row.pending == 0 for row in cluster.orchestrator.ledger()), 20)
