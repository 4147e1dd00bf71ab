"""A worker is killed at each place where it deals with a barrier: it trips once, and what was left goes out once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import BarrierBroken
from tests.apps.phases_app import Arrive
from tests.support.coordination_under_test import in_session
from tests.support.eventually import eventually
from tests.support.kill_switch import Place, after, before
from tests.support.phases_cluster import PhasesCluster, phases_cluster, slow

SETTLE = "settle_with_outcome"
ARRIVE, WAIT, BREAK = "barriers/arrive_at_barrier", "barriers/wait_at_barrier", "barriers/end_barrier"
REST = "barriers/send_barrier_messages"

#: So large that a script sends one or two of the parties' messages.
LARGE = "x" * 1_100_000


@pytest.fixture(scope="module")
def of_module() -> Iterator[PhasesCluster]:
    with phases_cluster("party") as cluster:
        yield cluster


@pytest.fixture
def cluster(of_module: PhasesCluster) -> PhasesCluster:
    of_module.get_ready()
    return of_module


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The barrier's."""
    return str(request.node.name)


def arrive(cluster: PhasesCluster, name: str, **options: Any) -> Any:
    return cluster.orchestrator.send("party", Arrive(barrier=name, **options))


def went_on(cluster: PhasesCluster, key: str = "test:went_on") -> Counter[str]:
    """How often each party's message was begun; there is one message of each."""
    notes = cluster.notes(key)
    assert len({note["delivery"] for note in notes}) == len({note["of"] for note in notes})
    return Counter(note["of"] for note in notes)


def ended(cluster: PhasesCluster, name: str) -> None:
    """Nothing of a generation is left."""
    keys, root = cluster.keys, cluster.keys.root
    parts = ("arrived", "waiting", "gone", "then", "if-broken", "rest:*")
    assert [key for part in parts for key in cluster.redis.keys(f"{root}barrier-{part}:*")] == []
    assert [timer for timer in cluster.redis.zrange(keys.timers, 0, -1) if timer.startswith(b"barrier")] == []


@pytest.mark.parametrize(
    "place",
    [
        slow(Place("claimed", ("party.Arrive",))),
        slow(Place("before handler", ("party.Arrive",))),
        slow(before(ARRIVE)),
        after(ARRIVE),
        slow(Place("after handler", ("party.Arrive",))),
        slow(before(SETTLE, '"result":1')),
        slow(after(SETTLE, '"result":1')),
    ],
)
@pytest.mark.parametrize("is_last", [True, slow(False)])
def test_a_party_that_leaves_a_message_counts_once_wherever_it_is_killed(
    cluster: PhasesCluster, name: str, place: Place, is_last: bool
) -> None:
    with cluster.counted() as counted:
        if is_last:
            first = arrive(cluster, name)
            first.wait(20)
            last = cluster.kill_at(place, lambda: arrive(cluster, name))
        else:
            first = cluster.kill_at(place, lambda: arrive(cluster, name))
            first.wait(20)
            last = arrive(cluster, name)
        assert first.wait(20).result == last.wait(20).result, "one generation"
        eventually(lambda: len(cluster.notes("test:went_on")) >= 2, 20, cluster.log)
    assert went_on(cluster) == {first.id: 1, last.id: 1}
    assert counted == {"accepted": 4, "handled": 4}
    ended(cluster, name)


@pytest.mark.parametrize("place", [after(ARRIVE), slow(before(REST)), slow(after(REST))])
def test_messages_that_one_script_did_not_send_are_sent_after_its_death(
    cluster: PhasesCluster, name: str, place: Place
) -> None:
    with cluster.counted() as counted:
        first = arrive(cluster, name, text=LARGE)
        first.wait(20)
        last = cluster.kill_at(place, lambda: arrive(cluster, name, text=LARGE))
        assert first.wait(20).result == last.wait(20).result
        eventually(lambda: set(went_on(cluster)) == {first.id, last.id}, 20, cluster.log)
    assert sum(went_on(cluster).values()) <= 3, "the dead worker may have run one of them"
    assert counted == {"accepted": 4, "handled": 4}
    ended(cluster, name)


@pytest.mark.parametrize(
    ("place", "times"),
    [
        slow(Place("claimed", ("party.GoOn",)), 2),
        slow(Place("before handler", ("party.GoOn",)), 2),
        slow(Place("in handler", ("go on",)), 3),
        slow(Place("after handler", ("party.GoOn",)), 3),
        slow(before(SETTLE, '"result":null'), 3),
        slow(after(SETTLE, '"result":null'), 2),
    ],
)
def test_each_party_goes_on_wherever_it_is_killed(cluster: PhasesCluster, name: str, place: Place, times: int) -> None:
    with cluster.counted() as counted:
        first = arrive(cluster, name)
        first.wait(20)
        last = cluster.kill_at(place, lambda: arrive(cluster, name))
        eventually(lambda: set(went_on(cluster)) == {first.id, last.id}, 20, cluster.log)
    assert sum(went_on(cluster).values()) == times
    assert counted == {"accepted": 4, "handled": 4}
    ended(cluster, name)


@pytest.mark.parametrize("place", [slow(before(BREAK)), slow(after(BREAK)), slow(Place("in handler", ("give up",)))])
def test_a_generation_ends_at_its_time_wherever_who_ends_it_is_killed(
    cluster: PhasesCluster, name: str, place: Place
) -> None:
    with cluster.counted() as counted:
        first = cluster.kill_at(place, lambda: arrive(cluster, name, timeout_s=0.5))
        eventually(lambda: cluster.notes("test:gave_up"), 20, cluster.log)
        first.wait(20)
    assert set(went_on(cluster, "test:gave_up")) == {first.id}
    assert cluster.notes("test:went_on") == []
    assert counted == {"accepted": 2, "handled": 2}
    ended(cluster, name)
    cluster.orchestrator.barrier(name, 2).reset()


@pytest.mark.parametrize("place", [slow(before(WAIT)), slow(after(WAIT))])
@pytest.mark.parametrize("on_death", ["break", "shrink"])
def test_a_killed_party_breaks_a_barrier_only_if_it_waited(
    cluster: PhasesCluster, name: str, place: Place, on_death: str
) -> None:
    """One that is killed before it has begun to wait breaks nothing: it has arrived, and arrives again."""
    orchestrator = cluster.orchestrator
    waits = place.where.startswith("after")
    with cluster.counted() as counted:
        party = cluster.kill_at(place, lambda: arrive(cluster, name, waits=True, on_death=on_death))
        barrier = orchestrator.barrier(name, 2, on_death=on_death)  # type: ignore[arg-type]
        mine = in_session(orchestrator, lambda: barrier.arrive("test").wait(30))
        if waits and on_death == "break":
            with pytest.raises(BarrierBroken, match="killed"):
                mine.result(30)
            assert party.wait(20).reason == "retries exhausted"
        else:
            generation = mine.result(30)
            assert party.wait(20).result == generation
    is_broken = waits and on_death == "break"
    assert counted == {"accepted": 1, "dead" if is_broken else "handled": 1}
    ended(cluster, name)


@pytest.mark.parametrize("place", [slow(before(SETTLE, '"result":1')), slow(after(SETTLE, '"result":1'))])
def test_a_party_that_has_waited_passes_again_wherever_it_is_killed(
    cluster: PhasesCluster, name: str, place: Place
) -> None:
    """It passes once more, and not into the next generation."""
    orchestrator = cluster.orchestrator
    with cluster.counted() as counted:
        barrier = orchestrator.barrier(name, 2)

        def meet() -> Any:
            party = arrive(cluster, name, waits=True)
            mine.append(in_session(orchestrator, lambda: barrier.arrive("test").wait(30)))
            return party

        mine: list[Any] = []
        party = cluster.kill_at(place, meet)
        assert party.wait(20).result == mine[0].result(30)
    assert counted == {"accepted": 1, "handled": 1}
    ended(cluster, name)
