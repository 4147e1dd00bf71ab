"""Calls that would wait for themselves are found and named, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import CallWouldDeadlock, Dead, Handled, SendFailed
from orchestrator.embedded import EmbeddedServer
from tests.apps import rings_app
from tests.apps.rings_app import Time, Turn
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.waiting_handlers import KEYS, Places
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def places(counted_url: str) -> Iterator[Places]:
    made = Places(counted_url)
    yield made
    made.redis.close()


def test_two_agents_that_call_each_other(places: Places) -> None:
    places.worker("w1", "a")
    places.worker("w2", "b")
    assert places.wait("w1", "a", "b", "1") == []
    assert places.wait("w2", "b", "a", "2") == ["b", "a", "b"]
    assert places.end("w2", "2") == 1
    # As before, once that is over.
    assert places.wait("w2", "b", "c", "3") == []


def test_an_agent_that_calls_itself(places: Places) -> None:
    places.worker("w1", "a")
    assert places.wait("w1", "a", "a", "1") == ["a", "a"]
    places.worker("w2", "a")
    assert places.wait("w1", "a", "a", "1") == []


def test_a_worker_that_serves_whom_it_calls_has_no_slot_for_it(places: Places) -> None:
    places.worker("w1", "front", "back")
    assert places.wait("w1", "front", "back", "1") == ["front", "back", "front"]
    ring = places.ring("w1", "front", "back", "1")
    assert ring is not None
    assert ring.no_slot("w1") == "this worker, w1, has no free slot for back while it runs front"
    assert ring.no_slot("w2") == "w1 has no free slot for back while it runs front"


def test_the_ring_of_an_agent_that_calls_itself_names_the_worker(places: Places) -> None:
    places.worker("w1", "a")
    ring = places.ring("w1", "a", "a", "1")
    assert ring is not None
    assert (str(ring), ring.no_slot("w1")) == ("a → a", "this worker, w1, has no free slot for a while it runs a")


def test_a_ring_of_calls_on_shared_workers_names_all_agents(places: Places) -> None:
    for name in ("w1", "w2", "w3"):
        places.worker(name, "a", "b", "c")
    assert places.wait("w1", "a", "b", "1") == []
    assert places.wait("w2", "b", "c", "2") == []
    ring = places.ring("w3", "c", "a", "3")
    assert ring is not None
    assert (str(ring), ring.no_slot("w3")) == ("c → a → b → c", "")


def test_a_ring_of_calls_in_one_worker_names_all_agents(places: Places) -> None:
    places.worker("w1", "a", "b", "c", slots=4)
    for number, (caller, callee) in enumerate((("a", "b"), ("b", "c"), ("c", "a"))):
        assert places.wait("w1", caller, callee, str(number)) == []
    assert places.wait("w1", "a", "b", "4") == ["a", "b", "c", "a"]


def test_a_ring_over_a_slot_of_another_worker(places: Places) -> None:
    places.worker("w1", "a")
    places.worker("w2", "b", "c")
    # The slot of w2 runs c, which waits for a; b, which a calls, finds none.
    assert places.wait("w2", "c", "a", "1") == []
    ring = places.ring("w1", "a", "b", "2")
    assert ring is not None
    assert (str(ring), ring.no_slot("w1")) == ("a → b → c → a", "w2 has no free slot for b while it runs c")


def test_a_ring_of_three(places: Places) -> None:
    for name in "abc":
        places.worker(f"w{name}", name)
    assert places.wait("wa", "a", "b", "1") == []
    assert places.wait("wb", "b", "c", "2") == []
    assert places.wait("wc", "c", "a", "3") == ["c", "a", "b", "c"]


def test_a_free_slot_anywhere_answers(places: Places) -> None:
    places.worker("w1", "a", slots=2)
    places.worker("w2", "b")
    assert places.wait("w1", "a", "b", "1") == []
    assert places.wait("w2", "b", "a", "2") == []
    # The other slot of the first waits for somebody who is free.
    places.worker("w3", "c")
    assert places.wait("w1", "a", "c", "3") == []
    assert places.wait("w2", "b", "a", "2") == []
    # Now for one that waits, too.
    assert places.wait("w3", "c", "b", "4") == ["c", "b", "a", "c"]


def test_who_waits_for_a_ring_of_others_is_in_none(places: Places) -> None:
    for name in "abc":
        places.worker(f"w{name}", name)
    places.wait("wa", "a", "b", "1")
    assert places.wait("wb", "b", "a", "2") == ["b", "a", "b"]
    assert places.wait("wc", "c", "a", "3") == []


def test_memories_are_no_waits(places: Places) -> None:
    places.worker("w1", "a")
    places.worker("w2", "b")
    places.wait("w1", "a", "b", "1")
    places.redis.rpush(KEYS.outcome("1"), "{}")
    assert places.wait("w2", "b", "a", "2") == []
    places.redis.delete(KEYS.outcome("1"))
    places.redis.zrem(KEYS.leases, "w1")
    assert places.wait("w2", "b", "a", "2") == []
    assert places.end("w2") == 1
    assert not places.redis.exists(KEYS.asking("w2"))


def test_what_is_not_known_is_no_ring(places: Places) -> None:
    places.worker("w1", "a", slots=0)
    places.worker("w2", "b")
    places.wait("w1", "a", "b", "1")
    assert places.wait("w2", "b", "a", "2") == []
    # Nobody serves it.
    assert places.wait("w2", "b", "nobody", "3") == []


def commands_of_wait(places: Places, *wait: str) -> tuple[int, list[str]]:
    """How many commands it takes to begin a wait, and the ring that is found."""
    places.redis.config_resetstat()
    ring = places.wait(*wait)
    counted = places.redis.info("commandstats")
    own = {"cmdstat_eval", "cmdstat_config", "cmdstat_info"}
    return sum(stat["calls"] for name, stat in counted.items() if name not in own), ring


@pytest.mark.parametrize("workers", [2, 40])
def test_a_free_slot_is_found_without_a_look_at_other_workers(places: Places, workers: int) -> None:
    mailboxes = [f"m{number}" for number in range(workers)]
    for number in range(workers):
        places.worker(f"w{number}", *mailboxes)
        if number:
            places.wait(f"w{number}", "m0", "m1", str(number))
    # A mailbox of its own, whose worker is free.
    places.worker("free", "other")
    taken, ring = commands_of_wait(places, "w0", "m0", "other", "0")
    assert (taken, ring) == (7, [])


def test_where_all_slots_wait_each_worker_and_each_mailbox_is_looked_at_once(places: Places) -> None:
    workers, mailboxes = 30, [f"m{number}" for number in range(20)]
    for number in range(workers):
        places.worker(f"w{number}", *mailboxes)
    for number in range(workers):
        agent, callee = (mailboxes[(number + more) % 20] for more in (0, 1))
        taken, ring = commands_of_wait(places, f"w{number}", agent, callee, str(number))
    # Of a worker its slots, waits twice, the outcomes; of a mailbox its servers twice; the leases; two record the wait.
    assert taken == 4 * workers + 2 * len(mailboxes) + 1 + 2
    assert ring[0] == ring[-1] == "m9"


def test_of_very_many_mailboxes_and_workers_some_are_looked_at(places: Places) -> None:
    mailboxes = [f"m{number}" for number in range(100)]
    for number in range(100):
        places.worker(f"w{number}", *mailboxes)
    for number in range(100):
        agent, callee = (mailboxes[(number + more) % 100] for more in (0, 1))
        places.redis.hset(KEYS.asking(f"w{number}"), str(number), f"{callee}\n{agent}\n{callee}")
    taken, ring = commands_of_wait(places, "w0", "m0", "m1", "0")
    assert ring == []
    # 4,000 pairs of both are the members of 40 mailboxes; the next one's are counted.
    assert taken == 4 * 100 + 2 * 40 + 1 + 1 + 2


def test_a_mailbox_of_very_many_workers_is_not_read(places: Places) -> None:
    places.worker("w", "m")
    places.redis.sadd(KEYS.servers("m"), *[f"w{number}" for number in range(4000)])
    assert commands_of_wait(places, "w", "m", "m", "0") == (3, [])


@pytest.mark.parametrize(("slots", "agents"), [(500, 501), (501, 0)])
def test_a_ring_of_up_to_500_waits_is_found(places: Places, slots: int, agents: int) -> None:
    places.worker("w", *[f"m{number}" for number in range(slots)], slots=slots)
    waits = {str(number): f"m{(number + 1) % slots}\nm{number}\nm{(number + 1) % slots}" for number in range(slots)}
    places.redis.hset(KEYS.asking("w"), mapping=waits)
    ring = places.wait("w", "m0", "m1", "0")
    assert len(ring) == agents
    assert ring[:3] == [*ring[-1:], "m1", "m2"] if agents else not ring


@pytest.mark.parametrize(("workers", "agents"), [(250, 251), (251, 0)])
def test_a_ring_of_up_to_250_workers_is_found(places: Places, workers: int, agents: int) -> None:
    for number in range(workers):
        places.worker(f"w{number}", f"m{number}")
        wait = f"m{(number + 1) % workers}\nm{number}\nm{(number + 1) % workers}"
        places.redis.hset(KEYS.asking(f"w{number}"), str(number), wait)
    assert len(places.wait("w0", "m0", "m1", "0")) == agents


@pytest.fixture(scope="module")
def rings() -> Iterator[Cluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.rings_app", server.url, name="left", queues="left") as left,
        WorkerProcess("tests.apps.rings_app", server.url, name="right", queues="right") as right,
    ):
        cluster = Cluster(server.url, right, rings_app.make(server.url))
        # Slots are known by the second heartbeat.
        eventually(lambda: [one.concurrency for one in cluster.orchestrator.registry.incarnations()] == [1, 1])
        yield cluster
        assert left.is_running
        cluster.close()


def test_a_ring_of_real_workers_is_an_error(rings: Cluster) -> None:
    assert rings.orchestrator.call("left", Turn(to=["right"]), timeout_s=20) == "right"
    outcome = rings.orchestrator.send("left", Turn(to=["right", "left"])).wait(timeout_s=30)
    assert isinstance(outcome, Dead)
    assert "CallWouldDeadlock: the call would wait for itself: right → left → right" in outcome.error
    assert not rings.redis.keys(rings.keys.asking("*"))
    assert str(CallWouldDeadlock(["a", "b", "a"])).startswith("the call would wait for itself: a → b → a")


def test_the_outermost_caller_reads_which_ring_it_was(rings: Cluster) -> None:
    with pytest.raises(SendFailed, match=r"CallWouldDeadlock: .*: right → left → right; all slots of their workers"):
        rings.orchestrator.call("left", Turn(to=["right", "left"]), timeout_s=20)
    with pytest.raises(SendFailed) as error:
        rings.orchestrator.call("left", Turn(to=["left"]), timeout_s=20)
    this = next(one.id for one in rings.orchestrator.registry.incarnations() if one.id.startswith("left@"))
    assert f"would wait for itself: left → left; this worker, {this}, has no free slot for left" in str(error.value)


def test_a_ring_of_real_workers_is_a_warning(rings: Cluster) -> None:
    turn = Turn(to=["right", "left"], on_deadlock="warn", timeout_s=2)
    outcome = rings.orchestrator.send("left", turn).wait(timeout_s=30)
    assert isinstance(outcome, Dead)
    assert "call of left.Turn by right waits for itself: right → left → right" in rings.log()
    eventually(lambda: not rings.redis.keys(rings.keys.asking("*")))
    assert isinstance(rings.orchestrator.send("left", Turn(to=["right"])).wait(timeout_s=20), Handled)


def test_a_deadline_shrinks_from_process_to_process(rings: Cluster) -> None:
    first, second = rings.orchestrator.call("left", Time(to=["right"]), timeout_s=8)
    assert 0 < second < first < 8
