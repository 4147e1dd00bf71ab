"""A worker is killed at each place of a singleton's change of leader: the next one leads, and each term ends once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Handled
from tests.apps.phases_app import Cron, Tick
from tests.support.eventually import eventually
from tests.support.kill_switch import Place, after, before
from tests.support.phases_cluster import PhasesCluster, phases_cluster, slow

ANNOUNCE = "coordination/announce_terms"
SETTLE = "settle_with_outcome"


@pytest.fixture(scope="module")
def of_module() -> Iterator[PhasesCluster]:
    with phases_cluster("cron") as cluster:
        yield cluster


@pytest.fixture
def cluster(of_module: PhasesCluster) -> PhasesCluster:
    of_module.get_ready()
    return of_module


def leads(cluster: PhasesCluster) -> Any:
    """The term of a leader that has handled what announces it."""

    election, leases = cluster.orchestrator.election(Cron), cluster.orchestrator.runtime.redis.named_leases

    def announced() -> Any:
        term = election.leader()
        return term if term is not None and leases.is_announced(election.name, term.number) else None

    term = eventually(announced, 20, cluster.log)
    cluster.idle()
    return term


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        # Of the dead leader's term: how often on_elected and on_deposed were begun; of the first message.
        (before(ANNOUNCE), (0, 1, 1)),
        slow(after(ANNOUNCE), (1, 1, 1)),
        slow(Place("claimed", ("on_elected",)), (1, 1, 1)),
        slow(Place("before handler", ("on_elected",)), (1, 1, 1)),
        (Place("in handler", ("on_elected",)), (2, 1, 1)),
        slow(Place("after handler", ("on_elected",)), (2, 1, 1)),
        slow(before(SETTLE, '"result":"elected"'), (2, 1, 1)),
        slow(after(SETTLE, '"result":"elected"'), (1, 1, 1)),
        slow(Place("in handler", ("on_deposed",)), (1, 1, 1)),
        slow(Place("claimed", ("cron.Tick",)), (1, 1, 1)),
        slow(Place("in handler", ("tick 1",)), (1, 1, 2)),
        slow(before(SETTLE, '"result":"ticked"'), (1, 1, 2)),
        slow(after(SETTLE, '"result":"ticked"'), (1, 1, 1)),
    ],
)
def test_terms_begin_and_end_in_order_wherever_a_leader_is_killed(
    cluster: PhasesCluster, place: Place, calls: tuple[int, int, int]
) -> None:
    first = leads(cluster)
    (leader,) = [worker for worker in cluster.workers if worker.incarnation == first.leader]

    def depose() -> Any:
        leader.kill()
        delivery = cluster.orchestrator.send(Cron, Tick(number=1), when_down="queue")
        leader.start(wait=False)
        return delivery

    cluster.redis.delete("test:calls")
    delivery = cluster.kill_at(place, depose)
    assert isinstance(delivery.wait(30), Handled)
    last = leads(cluster)
    second = _term_between(cluster, first.number, last.number)
    notes = cluster.notes("test:calls")
    begun = Counter((note["call"], note["number"]) for note in notes)
    assert begun["on_elected", second] == calls[0], notes
    assert begun["on_deposed", second] == calls[1], notes
    assert begun["on_elected", last.number] == 1, notes
    assert begun["tick", 1] == calls[2], notes
    terms = [note["term"] for note in notes if note["call"] == "tick"]
    assert set(terms) <= {second, last.number}
    # The end of a term comes before the next one's begin.
    order = [(note["call"], note["number"]) for note in notes]
    assert order.index(("on_deposed", first.number)) < order.index(("on_elected", last.number))
    assert order.index(("on_deposed", second)) < order.index(("on_elected", last.number))
    elected = [number for call, number in order if call == "on_elected"]
    assert elected == sorted(elected), order


def _term_between(cluster: PhasesCluster, first: int, last: int) -> int:
    entries = cluster.redis.xrange(cluster.keys.named_terms("singleton:cron"), f"{first}-9", f"{last - 1}-9")
    (number,) = {int(entry.partition(b"-")[0]) for entry, _ in entries}
    assert {fields[b"reason"] for entry, fields in entries if entry.endswith(b"-1")} == {b"killed"}
    return number
