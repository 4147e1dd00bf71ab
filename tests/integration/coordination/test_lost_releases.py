"""A release whose answer is lost, and which is repeated, says what the first one has done: it was held until then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from orchestrator import BrokerUnavailable, LeaseLost, Orchestrator
from orchestrator.core.coordination.lease import Kind
from orchestrator.core.keys import Keys
from orchestrator.telemetry import attach, detach
from tests.support.coordination_under_test import close, in_session, make
from tests.support.lost_answers import LostAnswers

#: By kind: what is held, and what releases it.
HELD: dict[str, Callable[[Orchestrator], Any]] = {
    "lease": lambda o: o.lease("a").acquire(),
    "lease with a limit": lambda o: o.lease("a", limit_s=60).acquire(),
    "semaphore": lambda o: o.semaphore("a", 3).acquire(),
    "pool": lambda o: o.pool("a", ["gpu0"]).checkout(),
    "election": lambda o: o.election("a").campaign(),
}

#: How often the answer is lost: the connection repeats a call, and so does what uses it.
TIMES = (1, 2)


@pytest.fixture
def network(redis_url: str) -> Iterator[LostAnswers]:
    with LostAnswers(redis_url) as network:
        yield network


@pytest.fixture
def lossy(network: LostAnswers) -> Iterator[Orchestrator]:
    made = make(network.url)
    yield made
    close(made)


@pytest.fixture
def ends() -> Iterator[list[Any]]:
    """The ends of permits that this process has emitted."""
    found: list[Any] = []
    attach(found.append, "lease.ended")
    yield found
    detach(found.append)


def load_scripts(orchestrator: Orchestrator, kind: str) -> None:
    """Have the server know the scripts, so that the answer that is lost is not NOSCRIPT."""
    assert HELD[kind](orchestrator).release()


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", HELD)
def test_it_was_held_until_then(
    lossy: Orchestrator, network: LostAnswers, ends: list[Any], kind: str, times: int
) -> None:
    with lossy.monitors.session():
        load_scripts(lossy, kind)
        held = HELD[kind](lossy)
        ends.clear()
        network.lose(times, held._held.token, done_first=True)
        assert held.release(), "it was told that it was held no more"
        assert network.left == 0
        assert [(end.metadata["fence"], end.metadata["reason"]) for end in ends] == [
            (held.fence, "resigned" if kind == "election" else "released")
        ]
        assert not held.release()


def test_so_it_is_if_the_next_in_line_has_had_it_and_released_it_meanwhile(redis_url: str) -> None:
    made = make(redis_url)
    leases: Any = made.runtime.redis.named_leases
    with made.monitors.session():
        lease = made.lease("a").acquire()
        call = leases._release_call(Kind.LEASE, "a", lease._held.token, "released")
        first = leases._run(call)
        other = in_session(made, lambda: made.lease("a").acquire().release())
        assert other.result(10)
        assert leases._run(call) == first != b""
    close(made)


def test_one_that_is_repeated_late_and_what_its_thread_releases_next_have_an_answer_each(
    lossy: Orchestrator, network: LostAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the later answer took the place of the other, and one of the two found nothing held."""
    leases: Any = lossy.runtime.redis.named_leases
    late: list[Any] = []
    monkeypatch.setattr(leases._late, "add", late.append)
    with lossy.monitors.session():
        load_scripts(lossy, "lease")
        one, other = lossy.lease("a").acquire(), lossy.lease("b").acquire()
        network.lose(20, one._held.token, done_first=True)
        assert not one.release()
        network.lose(0, "", done_first=True)
        (again,) = late
        call = leases._release_call(Kind.LEASE, "b", other._held.token, "released")
        first = leases._run(call)
        assert leases._run(again).startswith(b"%d " % one.fence)
        assert leases._run(call) == first != b""


@pytest.mark.parametrize("times", TIMES)
def test_the_inner_one_of_two_blocks_was_held(lossy: Orchestrator, network: LostAnswers, times: int) -> None:
    with lossy.monitors.session(), lossy.lease("a", reentrant=True) as outer:
        inner = lossy.lease("a", reentrant=True).acquire()
        network.lose(times, inner._held.token, done_first=True)
        assert inner.release()
        assert network.left == 0
        outer.check()


def test_the_end_of_a_block_warns_of_nothing(
    lossy: Orchestrator, network: LostAnswers, caplog: pytest.LogCaptureFixture
) -> None:
    with lossy.monitors.session():
        load_scripts(lossy, "lease")
        with caplog.at_level(logging.WARNING), lossy.lease("a") as lease:
            network.lose(1, lease._held.token, done_first=True)
        assert network.left == 0
    assert "held no more" not in caplog.text


@pytest.mark.parametrize("times", TIMES)
def test_a_resource_was_checked_in(lossy: Orchestrator, network: LostAnswers, ends: list[Any], times: int) -> None:
    refused: list[Any] = []
    attach(refused.append, "lease.refused")
    pool = lossy.pool("a", ["gpu0", "gpu1"])
    with lossy.monitors.session():
        pool.checkout()
        pool.check_in("gpu0")
        held = pool.checkout()
        ends.clear()
        network.lose(times, held.resource, done_first=True)
        assert pool.check_in(held.resource)
        assert network.left == 0
        assert [end.metadata["fence"] for end in ends] == [held.fence]
        assert refused == []
        assert not pool.check_in(held.resource)
    detach(refused.append)


def test_what_is_checked_in_after_an_error_is_what_was_checked_out_since(
    lossy: Orchestrator, network: LostAnswers
) -> None:
    pool = lossy.pool("a", ["gpu0"])
    with lossy.monitors.session():
        pool.checkout()
        pool.check_in("gpu0")
        pool.checkout()
        network.lose(20, "gpu0", done_first=True)
        with pytest.raises(BrokerUnavailable):
            pool.check_in("gpu0")
        network.lose(0, "", done_first=True)
        again = pool.checkout()
        assert pool.check_in("gpu0")
        with pytest.raises(LeaseLost):
            again.check()


def test_what_is_kept_of_releases_is_one_entry_of_each_thread(lossy: Orchestrator, redis_url: str) -> None:
    def use() -> None:
        for _ in range(5):
            with lossy.lease("a", wait_s=10), lossy.semaphore("b", 9).acquire():
                pass

    for done in [in_session(lossy, use) for _ in range(3)]:
        done.result(20)
    with redis.Redis.from_url(redis_url) as client:
        hashes = client.keys(f"{Keys().root}last-publish:*")
        assert 1 <= len(hashes) <= 2
        assert sum(client.hlen(key) for key in hashes) <= 3 * len(hashes)
        assert all(0 < client.pttl(key) <= 900_000 for key in hashes)
