"""A worker is killed at each place where it deals with a ballot: it is decided once, and all are told the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apps.phases_app import ABSENT, VOTERS, Move, Propose
from tests.support.eventually import eventually
from tests.support.kill_switch import Place, after, before
from tests.support.phases_cluster import PhasesCluster, phases_cluster, slow

SETTLE = "settle_with_outcome"

#: So large that a script asks, or tells, one or two voters.
LARGE = "x" * 600_000


@pytest.fixture(scope="module")
def of_module() -> Iterator[PhasesCluster]:
    with phases_cluster("proposer,a,b,c") as cluster:
        yield cluster


@pytest.fixture
def cluster(of_module: PhasesCluster) -> PhasesCluster:
    of_module.get_ready()
    return of_module


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """The ballot's id."""
    return str(request.node.name)


def ask(cluster: PhasesCluster, move: Move, **options: Any) -> Any:
    return cluster.orchestrator.send("proposer", Propose(move=move, **options))


def decided(cluster: PhasesCluster, key: str, accepted: bool, missing: dict[str, str] | None = None) -> Counter[str]:
    """What holds once a ballot is decided; returns how often each voter was called with it."""
    ballot = cluster.orchestrator.coordination.ballot(key)
    decision = ballot.wait(20)
    assert decision.accepted is accepted, decision
    assert decision.missing == (missing or {})
    said = {"accepted": accepted, "votes": {name: vote.approves for name, vote in decision.votes.items()}}
    cluster.idle()
    told = [note for note in cluster.notes("test:decided") if note["ballot"] == key]
    for note in told:
        assert note == {"ballot": key, "voter": note["voter"], "missing": dict(decision.missing), **said}
    assert ballot.wait(1) == decision
    keys = cluster.keys
    assert not cluster.redis.exists(keys.ballot_undelivered(key))
    assert cluster.redis.zscore(keys.timers, f"ballot:{key}") is None
    return Counter(note["voter"] for note in told)


def asked(cluster: PhasesCluster) -> Counter[str]:
    return Counter(note["voter"] for note in cluster.notes("test:asked"))


def times_of_b(counted: Counter[str]) -> int:
    """How often ``b`` did something. What the dead worker had run beside it, and not settled, runs once more."""
    others = {counted[voter] for voter in VOTERS if voter != "b"}
    assert counted.keys() == set(VOTERS)
    assert others <= {1, 2}, counted
    return counted["b"]


ONCE = dict.fromkeys(VOTERS, 1)
ALL = {"accepted": 7, "handled": 7}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        slow(Place("claimed", ("proposer.Propose",)), ""),
        slow(before("ballots/propose"), ""),
        slow(after("ballots/propose"), ""),
        slow(before("ballots/propose"), LARGE),
        (after("ballots/propose"), LARGE),
        slow(after(SETTLE, "proposer"), LARGE),
    ],
)
def test_a_ballot_is_proposed_once_wherever_its_proposer_is_killed(
    cluster: PhasesCluster, key: str, place: Place, text: str
) -> None:
    with cluster.counted() as counted:
        delivery = cluster.kill_at(place, lambda: ask(cluster, Move(key=key, text=text)))
        assert delivery.wait(30).result == key
        assert decided(cluster, key, True) == ONCE
    assert asked(cluster) == ONCE
    assert counted == ALL


@pytest.mark.parametrize(
    ("place", "times"),
    [
        slow(Place("claimed", ("b.vote_on_Move",)), 1),
        slow(Place("before handler", ("b.vote_on_Move",)), 1),
        slow(Place("in handler", ("vote b",)), 2),
        (Place("after handler", ("b.vote_on_Move",)), 2),
        slow(before(SETTLE, "ledger:b", '"approves":'), 2),
        slow(after(SETTLE, "ledger:b", '"approves":'), 1),
    ],
)
@pytest.mark.parametrize("decides", [True, slow(False)])
def test_a_vote_counts_once_wherever_its_voter_is_killed(
    cluster: PhasesCluster, key: str, place: Place, times: int, decides: bool
) -> None:
    """The first vote against it decides; without one, the last vote does."""
    move = Move(key=key, against=("b",) if decides else ())
    with cluster.counted() as counted:
        cluster.kill_at(place, lambda: ask(cluster, move))
        ballot = cluster.orchestrator.coordination.ballot(key)
        missing = dict(ballot.wait(20).missing)
        assert set(missing.values()) <= {"not needed"}
        assert decided(cluster, key, not decides, missing) == ONCE
    assert times_of_b(asked(cluster)) == times
    assert counted == ALL


@pytest.mark.parametrize(
    ("place", "times"),
    [
        slow(Place("claimed", ("b.on_decision",)), 1),
        slow(Place("before handler", ("b.on_decision",)), 1),
        slow(Place("in handler", ("on_decision b",)), 2),
        slow(Place("after handler", ("b.on_decision",)), 2),
        slow(before("settle", "ledger:b"), 2),
        slow(after("settle", "ledger:b"), 1),
    ],
)
def test_a_voter_is_sent_one_decision_wherever_it_is_killed(
    cluster: PhasesCluster, key: str, place: Place, times: int
) -> None:
    with cluster.counted() as counted:
        cluster.kill_at(place, lambda: ask(cluster, Move(key=key)))
        assert times_of_b(decided(cluster, key, True)) == times
    assert asked(cluster) == ONCE
    assert counted == ALL


@pytest.mark.parametrize(
    "place",
    [
        slow(after(SETTLE, '"approves":false')),
        slow(before("ballots/end_ballot")),
        slow(after("ballots/end_ballot")),
    ],
)
def test_decisions_that_one_script_did_not_send_are_sent_after_its_death(
    cluster: PhasesCluster, key: str, place: Place
) -> None:
    with cluster.counted() as counted:
        cluster.kill_at(place, lambda: ask(cluster, Move(key=key, text=LARGE, against=("a",))))
        eventually(lambda: len(cluster.notes("test:decided")) >= 3, 20, cluster.log)
        cluster.idle()
        missing = cluster.orchestrator.coordination.ballot(key).wait(5).missing
        told = decided(cluster, key, False, dict(missing))
        assert set(told) == set(VOTERS)
    assert sum(told.values()) <= 4, "the dead worker may have run one of them"
    assert counted == ALL


@pytest.mark.parametrize("place", [slow(before("ballots/end_ballot")), slow(after("ballots/end_ballot"))])
def test_a_ballot_ends_at_its_time_wherever_who_ends_it_is_killed(
    cluster: PhasesCluster, key: str, place: Place
) -> None:
    move = Move(key=key)
    cluster.kill_at(place, lambda: ask(cluster, move, timeout_s=0.5, voters=(*VOTERS, ABSENT)))
    told = decided(cluster, key, False, {ABSENT: "timeout"})
    # Any worker may end it, whatever it runs meanwhile.
    assert times_of_b(told) <= 2
    assert times_of_b(asked(cluster)) <= 2
