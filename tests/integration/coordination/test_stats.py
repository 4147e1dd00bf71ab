"""The numbers of coordination: the same in eager mode and on Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import Orchestrator
from orchestrator.coordination.stats import NamesStats
from tests.support.coordination_under_test import held_elsewhere, in_session
from tests.support.eventually import eventually
from tests.support.living_agents import Page, close, live, make, reader


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    eager = request.param == "eager"
    made = make("redis://127.0.0.1:1/0" if eager else request.getfixturevalue("redis_url"), reader("a"), eager=eager)
    live(made, "a")
    yield made
    close(made)


def test_nothing_has_happened(orchestrator: Orchestrator) -> None:
    stats = orchestrator.coordination.stats()
    assert (stats.calls.asked, stats.distributions, stats.items, stats.hierarchies) == (0, 0, 0, 0)
    assert (stats.ballots, stats.open_ballots) == (0, 0)
    assert stats.leases == stats.elections == stats.semaphores == stats.pools == NamesStats(0, 0, 0)


def test_what_is_held_and_waited_for_and_what_was_given_out_is_counted(orchestrator: Orchestrator) -> None:
    orchestrator.distribute([Page(number=1), Page(number=2)], to=["a"])
    orchestrator.distribute([Page(number=3)], to=["a"])
    orchestrator.hierarchy("ops", ["a"])
    with held_elsewhere(orchestrator, "month") as stop, orchestrator.monitors.session():
        waiting = in_session(orchestrator, lambda: orchestrator.lease("month", wait_s=20).acquire())
        led = orchestrator.election("scheduler").campaign()
        permits = [orchestrator.semaphore("api", 5).acquire() for _ in range(2)]
        gpu = orchestrator.pool("gpu", ["gpu0"]).checkout()
        eventually(lambda: orchestrator.coordination.stats().leases.waiting == 1)
        stats = orchestrator.coordination.stats()
        assert (stats.distributions, stats.items, stats.hierarchies) == (2, 3, 1)
        assert stats.leases == NamesStats(1, 1, 1)
        assert stats.elections == NamesStats(1, 1, 0)
        assert stats.semaphores == NamesStats(1, 2, 0)
        assert stats.pools == NamesStats(1, 1, 0)
        for held in (*permits, gpu):
            held.release()
        led.resign()
        stop.set()
        waiting.result(10)


def test_calls_are_summed_over_all_mailboxes(orchestrator: Orchestrator) -> None:
    names = ["a", "b"]
    orchestrator.host(reader("b"))
    live(orchestrator, *names)
    if orchestrator.eager:
        orchestrator.ask_all(names, Page(number=1), timeout_s=5)
    else:
        with pytest.raises(Exception, match="0 replied"):
            orchestrator.ask_all(names, Page(number=1), timeout_s=0.1)
    calls = orchestrator.coordination.stats().calls
    assert calls.asked == 2
    assert calls.asked == sum(one.asked for one in orchestrator.call_counts())
    assert calls.open == 0
