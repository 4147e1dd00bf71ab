"""Leases, elections, semaphores and pools as users see them: the same in eager mode and on Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    BrokerUnavailable,
    InvalidPolicy,
    LeaseHeld,
    LeaseLost,
    LeaseTaken,
    Majority,
    NoOwner,
    Orchestrator,
    PoolEmpty,
    Vote,
    votes,
)
from orchestrator.telemetry import attach, detach
from tests.support.coordination_under_test import close, held_elsewhere, in_session, make
from tests.support.eventually import eventually
from tests.support.living_agents import Page, Reader


class Votes(Reader):
    """An agent that all of it can be asked about."""

    name = "a"

    @votes(Page)
    def vote(self, proposal: Page) -> Vote:
        return Vote.approve()


# -- leases


def test_a_lease_is_held_in_its_block_and_its_token_grows(orchestrator: Orchestrator, session: Any) -> None:
    fences = []
    for _ in range(3):
        with orchestrator.lease("close-month") as lease:
            lease.check()
            assert lease.owner == session.id
            fences.append(lease.fence)
            (state,) = orchestrator.coordination.leases()
            assert [holder.owner for holder in state.holders] == [session.id]
        with pytest.raises(LeaseLost, match=f"'close-month' with the fencing token {lease.fence} is held no more"):
            lease.check()
    assert fences == sorted(set(fences))
    (state,) = orchestrator.coordination.leases()
    assert (state.name, state.fence, state.waiting, list(state.holders)) == ("close-month", fences[-1], 0, [])


def test_who_does_not_get_it_in_time_is_refused_after_all_of_that_time(
    orchestrator: Orchestrator, session: Any
) -> None:
    with held_elsewhere(orchestrator, "a"):
        began = monotonic()
        with pytest.raises(LeaseTaken, match=r"lease 'a' is taken by session@\S+; waited 0.3 s") as refused:
            orchestrator.lease("a", wait_s=0.3).acquire()
        assert 0.3 <= monotonic() - began < 5
        assert refused.value.holder.startswith("session@")
        assert orchestrator.coordination.leases()[0].waiting == 0
        with pytest.raises(LeaseTaken, match="waited 0 s"):
            orchestrator.lease("a").acquire()


def test_the_line_is_served_in_order_of_arrival(orchestrator: Orchestrator) -> None:
    order: list[int] = []

    def take(number: int) -> Callable[[], int]:
        def act() -> int:
            with orchestrator.lease("a", wait_s=20) as lease:
                order.append(number)
                return lease.fence

        return act

    waiting = []
    with held_elsewhere(orchestrator, "a") as stop:
        for number in range(5):
            waiting.append(in_session(orchestrator, take(number)))
            eventually(lambda: orchestrator.coordination.leases()[0].waiting == len(waiting))
        stop.set()
        fences = [future.result(20) for future in waiting]
    assert order == [0, 1, 2, 3, 4]
    assert fences == sorted(fences)


def test_entering_again_is_refused_unless_it_is_wanted_and_then_counted(
    orchestrator: Orchestrator, session: Any
) -> None:
    with orchestrator.lease("a") as outer:
        with pytest.raises(LeaseHeld, match="asks for it again; allowed: reentrant=True"):
            orchestrator.lease("a", wait_s=60).acquire()
        with orchestrator.lease("a", reentrant=True) as inner:
            assert inner.fence == outer.fence
        outer.check()
        assert in_session(orchestrator, lambda: _is_taken(orchestrator, "a")).result(10)
    assert not in_session(orchestrator, lambda: _is_taken(orchestrator, "a")).result(10)


def _is_taken(orchestrator: Orchestrator, name: str) -> bool:
    try:
        with orchestrator.lease(name):
            return False
    except LeaseTaken:
        return True


def test_names_and_kinds_are_independent(orchestrator: Orchestrator, session: Any) -> None:
    with orchestrator.election("a").campaign() as led, orchestrator.lease("a") as one, orchestrator.lease("b") as two:
        assert one.release()
        for held in (led, two):
            held.check()
        assert [state.name for state in orchestrator.coordination.leases() if state.holders] == ["b"]


def test_a_limit_ends_it_for_the_next(orchestrator: Orchestrator, session: Any) -> None:
    with orchestrator.lease("a", limit_s=0.2) as lease:
        second = in_session(orchestrator, lambda: orchestrator.lease("a", wait_s=10).acquire().fence)
        assert second.result(10) > lease.fence
        with pytest.raises(LeaseLost):
            lease.check()
    assert not lease.release(), "it is not its holder's any more"


def test_what_a_session_holds_ends_with_it_and_who_waits_gets_it(orchestrator: Orchestrator) -> None:
    def leave_it_open() -> int:
        return orchestrator.lease("a").acquire().fence

    first = in_session(orchestrator, leave_it_open).result(10)
    second = in_session(orchestrator, lambda: orchestrator.lease("a", wait_s=10).acquire().fence)
    assert second.result(10) > first


def test_it_has_to_have_an_owner(orchestrator: Orchestrator) -> None:
    with pytest.raises(
        NoOwner, match="this thread has no owner for a lease; allowed: inside an agent's handler, or `with"
    ):
        orchestrator.lease("a").acquire()
    with pytest.raises(NoOwner, match="no owner for a leadership"):
        orchestrator.election("a").campaign()


@pytest.mark.parametrize(
    ("make_it", "text"),
    [
        (lambda o: o.lease(""), "name='' is not allowed; allowed: a text of 1 to 200 characters"),
        (lambda o: o.lease("x" * 201), "a text of 1 to 200 characters"),
        (lambda o: o.election("a\nb"), "that can be printed"),
        (lambda o: o.lease(7), "name=7 is not allowed"),
        (lambda o: o.lease("a", wait_s=-1), "wait_s=-1 is not allowed; allowed: a number from 0 to 86400"),
        (lambda o: o.lease("a", wait_s=86_401), "wait_s=86401 is not allowed"),
        (lambda o: o.lease("a", wait_s=True), "wait_s=True is not allowed"),
        (lambda o: o.lease("a", limit_s=0), "limit_s=0 is not allowed"),
        (lambda o: o.semaphore("a", 0), "permits=0 is not allowed; allowed: a whole number from 1"),
        (lambda o: o.semaphore("a", 1.5), "permits=1.5 is not allowed"),
        (lambda o: o.semaphore("a", 2).acquire(wait_s="1"), "wait_s='1' is not allowed"),
        (lambda o: o.pool("a", []), r"resources=\[\] is not allowed; allowed: 1 to 1000 different names"),
        (lambda o: o.pool("a", ["x", "x"]), r"resources=\['x', 'x'\] is not allowed"),
        (lambda o: o.pool("a", "gpu0"), "resources='gpu0' is not allowed"),
        (lambda o: o.pool("a", ["x", 3]), "resource=3 is not allowed"),
        (lambda o: o.election("a").campaign(wait_s=float("nan")), "wait_s=nan is not allowed"),
        (lambda o: o.election("a").observe(after=7), "after=7 is not allowed; allowed: a term of the election 'a'"),
        (lambda o: o.election("a").observe(timeout_s=-1), "timeout_s=-1 is not allowed"),
        (lambda o: o.coordination.leases(limit=0), "limit=0 is not allowed"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    orchestrator: Orchestrator, make_it: Callable[[Any], Any], text: str
) -> None:
    with pytest.raises(InvalidPolicy, match=text):
        make_it(orchestrator)
    assert orchestrator.coordination.leases() == []


def test_a_lease_is_used_once(orchestrator: Orchestrator, session: Any) -> None:
    lease = orchestrator.lease("a")
    with pytest.raises(InvalidPolicy, match=r"lease='not acquired' is not allowed; allowed: .*`with … as lease:`"):
        _ = lease.fence
    with lease:
        pass
    with pytest.raises(InvalidPolicy, match="make another"):
        lease.acquire()
    # A block must not run without a lease of its own, also not within another block of the same lease.
    with pytest.raises(InvalidPolicy, match="make another"), lease:
        pytest.fail("entered without a lease")
    other = orchestrator.lease("a").acquire()
    with other:
        with pytest.raises(InvalidPolicy, match="make another"), other:
            pytest.fail("entered twice")
        other.check()
    released = orchestrator.lease("a").acquire()
    released.release()
    with pytest.raises(InvalidPolicy, match="make another"), released:
        pytest.fail("entered after its release")


# -- elections


def test_one_leads_and_the_next_one_after_it_resigned(orchestrator: Orchestrator, session: Any) -> None:
    election = orchestrator.election("scheduler")
    assert election.leader() is None
    assert election.observe(timeout_s=0.05) is None
    with election.campaign() as led:
        assert led.term == election.leader() == election.observe()
        assert led.number == led.fence == led.term.number
        with pytest.raises(LeaseHeld):
            election.campaign(wait_s=5)
        next_one = in_session(orchestrator, lambda: election.campaign(wait_s=20).term)
        eventually(lambda: orchestrator.coordination.elections()[0][0].waiting == 1)
        assert led.resign()
        assert not led.resign()
    second = next_one.result(10)
    ended = election.observe(after=led, timeout_s=5)
    assert ended is not None
    assert (ended.number, ended.ended, ended.reason) == (led.number, True, "resigned")
    assert ended.since_s <= (ended.ended_s or 0)
    assert election.observe(after=ended, timeout_s=5) == second
    last = election.observe(after=second, timeout_s=5)
    assert last is not None
    assert (last.number, last.reason) == (second.number, "drained"), "its session was closed"
    assert election.leader() is None
    assert election.last_term() == last


def test_an_observer_waits_for_the_first_term(orchestrator: Orchestrator, session: Any) -> None:
    election = orchestrator.election("scheduler")
    seen: list[Any] = []
    observer = threading.Thread(target=lambda: seen.append(election.observe(timeout_s=10)))
    observer.start()
    with election.campaign() as led:
        observer.join(10)
        assert seen == [led.term]


# -- semaphores and pools


def test_a_semaphore_has_as_many_holders_as_permits(orchestrator: Orchestrator, session: Any) -> None:
    semaphore = orchestrator.semaphore("api", 2)
    with semaphore.acquire() as one, semaphore.acquire() as two:
        assert one.fence < two.fence
        with pytest.raises(LeaseTaken, match="semaphore 'api' is taken"):
            semaphore.acquire()
        state = semaphore.state()
        assert state is not None
        assert (state.permits, len(state.holders)) == (2, 2)
        with pytest.raises(InvalidPolicy, match="permits=3 is not allowed; allowed: 2, with which semaphore 'api'"):
            orchestrator.semaphore("api", 3).acquire()
    with orchestrator.semaphore("api", 3).acquire():
        assert orchestrator.coordination.semaphores()[0].permits == 3, "nobody used it with another number"


def test_a_pool_hands_out_each_resource_once(orchestrator: Orchestrator, session: Any) -> None:
    refused: list[Any] = []
    attach(refused.append, "lease.refused")
    pool = orchestrator.pool("gpu", ["gpu0", "gpu1"])
    try:
        with pool.checkout() as one, pool.checkout() as two:
            assert {one.resource, two.resource} == {"gpu0", "gpu1"}
            assert one.fence < two.fence
            with pytest.raises(PoolEmpty, match="pool 'gpu' has no free resource; waited 0 s"):
                pool.checkout(wait_s=0)
            assert not in_session(orchestrator, lambda: pool.check_in("gpu0")).result(10)
            assert [event.metadata["resource"] for event in refused] == ["gpu0"]
            assert pool.check_in("gpu0")
            assert not pool.check_in("gpu0")
            with pool.checkout(wait_s=1) as again:
                assert again.resource == "gpu0"
            with pytest.raises(InvalidPolicy, match="with which pool 'gpu' is in use"):
                orchestrator.pool("gpu", ["gpu0"]).checkout()
            (state,) = orchestrator.coordination.pools()
            assert state.resources == ("gpu0", "gpu1")
    finally:
        detach(refused.append)


def test_what_the_contract_promises_is_emitted(orchestrator: Orchestrator, session: Any) -> None:
    told: list[Any] = []
    attach(told.append, "lease.granted", "lease.ended")
    try:
        with orchestrator.lease("a") as lease:
            fence = lease.fence
    finally:
        detach(told.append)
    own = {"kind": "lease", "lease": "a", "owner": session.id, "fence": fence}
    assert [(event.name, dict(event.metadata)) for event in told] == [
        ("lease.granted", own), ("lease.ended", {**own, "reason": "released"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: o.coordination.leases(),
        lambda o: o.election("a").leader(),
        lambda o: o.discover("ocr"),
        lambda o: o.propose(Page(number=1), ["a"], Majority()),
        lambda o: o.barrier("b", 2).state(),
        lambda o: o.distribute([Page(number=1)], to=["a"]),
        lambda o: o.hierarchy("ops", {"a": []}),
    ],
)
def test_without_redis_it_is_named(ask: Callable[[Orchestrator], Any]) -> None:
    made = make("redis://127.0.0.1:1/0")
    made.host(Votes)
    with pytest.raises(BrokerUnavailable):
        ask(made)
    made.app.close()


def test_a_wait_that_is_interrupted_leaves_the_line(redis_url: str) -> None:
    class Interrupted(BaseException): ...

    made = make(redis_url)
    leases: Any = made.coordination._leases()

    def interrupt(*_: Any) -> None:
        assert made.coordination.leases()[0].waiting == 1
        raise Interrupted

    with made.monitors.session(), held_elsewhere(made, "a") as stop:
        leases._sleep, sleep = interrupt, leases._sleep
        with pytest.raises(Interrupted):
            made.lease("a", wait_s=20).acquire()
        leases._sleep = sleep
        assert made.coordination.leases()[0].waiting == 0
        stop.set()
        made.lease("a", wait_s=20).acquire()
    close(made)


def test_a_leader_that_another_follows_while_it_is_asked_for_is_no_gap(redis_url: str) -> None:
    """Regression: nobody seemed to lead, and the term that had been resigned was lost."""
    made = make(redis_url)
    leases: Any = made.runtime.redis.named_leases
    election, read, led, stop = made.election("scheduler"), leases.read, threading.Event(), threading.Event()

    def lead() -> int:
        with election.campaign(wait_s=20) as leadership:
            led.set()
            stop.wait(20)
            return leadership.number

    with made.monitors.session():
        first = election.campaign()
        following = in_session(made, lead)
        eventually(lambda: election.candidates())

        def read_after_a_change(*of: Any) -> Any:
            leases.read = read
            assert first.resign()
            assert led.wait(10)
            return read(*of)

        leases.read = read_after_a_change
        leader = election.leader()
        stop.set()
        assert leader is not None
        assert leader.number == following.result(10) > first.number
    close(made)
