"""A failover of Redis, with the last writes and without them: what docs/coordination.md says of what is held.

With two primaries it is decided what is lost: whoever is promoted before a write never gets it, as a replica that was
cut off. (One that was merely stopped would find the write in its socket when it goes on.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, LeaseLost, LeaseTaken, Orchestrator
from orchestrator.coordination.lease import Held
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually
from tests.support.two_servers import TwoServers, replicated

KINDS = ("lease", "election", "semaphore")


@pytest.fixture
def servers() -> Iterator[TwoServers]:
    with replicated() as both:
        yield both


@pytest.fixture
def holder(servers: TwoServers) -> Iterator[Orchestrator]:
    made = make(servers.url)
    yield made
    close(made)


@pytest.fixture
def other(servers: TwoServers) -> Iterator[Orchestrator]:
    made = make(servers.url)
    yield made
    close(made)


def acquire(orchestrator: Orchestrator, kind: str, wait_s: float = 0) -> Any:
    """A permit of that kind, under one name for each."""
    if kind == "election":
        return orchestrator.election("leader").campaign(wait_s=wait_s)
    if kind == "lease":
        return orchestrator.lease("month", wait_s=wait_s).acquire()
    return orchestrator.semaphore("api", 2).acquire(wait_s=wait_s)


def acquire_all(orchestrator: Orchestrator, wait_s: float = 0) -> dict[str, Held]:
    return {kind: acquire(orchestrator, kind, wait_s) for kind in KINDS}


def fences(held: dict[str, Held]) -> dict[str, int]:
    return {kind: one.fence for kind, one in held.items()}


def is_lost(held: Held) -> bool:
    """Whether its holder gets to know, when it asks, that it holds it no more."""

    def asked() -> str:
        try:
            held.check()
        except LeaseLost:
            return "lost"
        except BrokerUnavailable:
            return ""
        return "held"

    return eventually(asked, 30) == "lost"


def answers(orchestrator: Orchestrator) -> None:
    """Return once this app is on the second server."""

    def read() -> bool:
        try:
            orchestrator.election("leader").last_term()
        except BrokerUnavailable:
            return False
        return True

    eventually(read, 30)


def test_what_the_replica_knows_is_held_on_and_the_next_tokens_are_larger(
    servers: TwoServers, holder: Orchestrator, other: Orchestrator
) -> None:
    with ExitStack() as sessions:
        sessions.enter_context(holder.monitors.session())
        held = acquire_all(holder)
        servers.fail_over()
        answers(other)
        for one in held.values():
            assert not is_lost(one)
        leader = other.election("leader").leader()
        assert leader is not None
        assert (leader.number, leader.leader) == (held["election"].fence, held["election"].owner)

        def refused() -> list[str]:
            refusals = []
            for kind in ("lease", "election"):
                with pytest.raises(LeaseTaken):
                    acquire(other, kind)
                refusals.append(kind)
            return refusals

        assert in_session(other, refused).result(30) == ["lease", "election"]
        for one in held.values():
            assert one.release()
        then = in_session(other, lambda: fences(acquire_all(other))).result(30)
    assert all(then[kind] > held[kind].fence for kind in KINDS)


def test_a_grant_that_is_forgotten_is_believed_no_more_and_tokens_do_not_go_back(
    servers: TwoServers, holder: Orchestrator, other: Orchestrator
) -> None:
    with holder.monitors.session():
        for one in acquire_all(holder).values():
            one.release()
        servers.settled()
        servers.promote_the_second()
        held = acquire_all(holder)
        servers.first.kill()
        answers(other)

        def take() -> tuple[dict[str, int], int]:
            taken = acquire_all(other)
            leads = other.election("leader").leader()
            assert leads is not None
            return fences(taken), leads.number

        # Nobody waits for the one that Redis knows nothing of.
        then, number = in_session(other, take).result(30)
        assert all(then[kind] > held[kind].fence for kind in KINDS), (then, fences(held))
        assert number == then["election"]
        for kind in KINDS:
            assert is_lost(held[kind]), kind
            assert not held[kind].release(), kind


def test_a_release_that_is_forgotten_keeps_nobody_out_for_longer_than_its_owner_lives(
    servers: TwoServers, holder: Orchestrator, other: Orchestrator
) -> None:
    with holder.monitors.session():
        held = acquire_all(holder)
        servers.settled()
        servers.promote_the_second()
        for one in held.values():
            assert one.release()
        late = in_session(other, lambda: acquire_all(other)).result(30)
        servers.first.kill()
        answers(holder)
        for kind in KINDS:
            assert is_lost(late[kind]), kind
        # Its owner can hold it again.
        again = acquire_all(holder)
        assert all(again[kind].fence > late[kind].fence for kind in KINDS)
        for one in again.values():
            assert one.release()
    then = in_session(other, lambda: fences(acquire_all(other, wait_s=20))).result(60)
    assert all(then[kind] > again[kind].fence for kind in KINDS)


def test_who_enters_again_what_it_has_released_does_not_get_its_old_token(
    servers: TwoServers, holder: Orchestrator, other: Orchestrator
) -> None:
    def enter() -> Held:
        return holder.lease("month", reentrant=True).acquire()

    with holder.monitors.session():
        outer = enter()
        inner = enter()
        servers.settled()
        servers.promote_the_second()
        assert inner.release()
        assert outer.release()
        late = in_session(other, lambda: acquire(other, "lease")).result(30)
        servers.first.kill()
        answers(holder)
        again = enter()
        assert again.fence > late.fence
        # What is entered and not released keeps its token.
        assert enter().fence == again.fence


@pytest.mark.parametrize("wait_s", [0, 20])
def test_a_permit_whose_release_is_forgotten_keeps_its_own_process_from_none(
    servers: TwoServers, holder: Orchestrator, wait_s: float
) -> None:
    """There is one permit of each kind, and another session of the process asks for it."""

    def take(wait_s: float) -> list[Held]:
        one = holder.semaphore("one", 1).acquire(wait_s=wait_s)
        gpu = holder.pool("gpu", ["gpu0"]).checkout(wait_s=wait_s)
        return [one, gpu, holder.lease("month", wait_s=wait_s).acquire()]

    with holder.monitors.session():
        held = take(0)
        servers.settled()
        servers.promote_the_second()
        for one in held:
            assert one.release()
        servers.first.kill()
        answers(holder)
        again = in_session(holder, lambda: [one.fence for one in take(wait_s)]).result(60)
        assert all(now > before.fence for now, before in zip(again, held, strict=True))
