"""A Redis whose memory is full: what was accepted ends, and what frees memory can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from orchestrator import BrokerUnavailable, Majority, NotDecided, Orchestrator, Workflow
from orchestrator.embedded import EmbeddedServer
from tests.apps import ballots_app, calls_app
from tests.apps.ballots_app import VOTERS, says
from tests.apps.calls_app import Quote
from tests.support import living_agents
from tests.support.coordination_under_test import close
from tests.support.eventually import eventually
from tests.support.living_agents import Page, live, mail, reader


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def made(server: EmbeddedServer, client: Any) -> Iterator[Callable[[Orchestrator], Orchestrator]]:
    """Closes the apps that a test makes."""
    client.flushall()
    apps: list[Orchestrator] = []

    def make(orchestrator: Orchestrator) -> Orchestrator:
        apps.append(orchestrator)
        return orchestrator

    yield make
    for one in apps:
        close(one)


@contextmanager
def full(client: Any) -> Iterator[None]:
    """Whatever may take memory is refused."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


def test_a_ballot_is_waited_for_decided_at_its_time_and_cancelled(
    server: EmbeddedServer, client: Any, made: Callable[[Orchestrator], Orchestrator]
) -> None:
    """Regression: reads in a transaction are refused, too, so a wait ended at once; and no ballot was decided."""
    orchestrator = made(ballots_app.make(server.url))
    short, long = (
        orchestrator.propose(says(), voters=VOTERS, rule=Majority(), timeout_s=timeout_s) for timeout_s in (0.3, 60)
    )
    with full(client):
        assert not short.wait(20).accepted
        with pytest.raises(NotDecided):
            long.wait(0.1)
        assert long.cancel("no memory")
        assert "no memory" in long.wait(1).why


def test_a_sweep_decides_ballots(
    server: EmbeddedServer, client: Any, made: Callable[[Orchestrator], Orchestrator]
) -> None:
    orchestrator = made(ballots_app.make(server.url))
    ballot = orchestrator.propose(says(), voters=VOTERS, rule=Majority(), timeout_s=0.3)
    with full(client):
        eventually(lambda: orchestrator.runtime.redis.timers.run())
        assert ballot.state().state == "rejected"


def test_accepted_items_get_into_their_mailboxes(
    server: EmbeddedServer, client: Any, made: Callable[[Orchestrator], Orchestrator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: they stayed where they were, and no timer behind theirs was acted on."""
    orchestrator = made(living_agents.make(server.url, reader("a"), reader("b")))
    live(orchestrator, "a", "b")
    distribution: Any = orchestrator.runtime.redis.distribution
    run = distribution._run

    def dies_in_between(call: Any) -> Any:
        if call[0] == "release_items":
            raise BrokerUnavailable(server.url, "cut")
        return run(call)

    monkeypatch.setattr(distribution, "_run", dies_in_between)
    orchestrator.distribute([Page(number=number) for number in range(6)], to=["a", "b"])
    monkeypatch.undo()
    with full(client):
        orchestrator.runtime.redis.timers.run()
        assert {agent: len(found) for agent, found in mail(orchestrator, "a", "b").items()} == {"a": 3, "b": 3}


def test_a_run_is_paused_cancelled_and_deleted(
    server: EmbeddedServer, client: Any, made: Callable[[Orchestrator], Orchestrator]
) -> None:
    """Regression: what would have freed memory was refused."""
    orchestrator = made(calls_app.make(server.url))
    flow = Workflow("quotes")
    flow.step("one", Quote(number=1), to="alone")
    run = orchestrator.workflows.start(flow, workflow_id="first")
    with full(client):
        assert [run.pause(), run.cancel()] == ["done", "done"]
        eventually(lambda: run.status().state == "cancelled")
        run.delete()
    assert not client.keys(f"*{run.uid}*")


def test_numbers_of_monitors_are_read(
    server: EmbeddedServer, client: Any, made: Callable[[Orchestrator], Orchestrator]
) -> None:
    """Regression: the reads were in a transaction."""
    orchestrator = made(calls_app.make(server.url))
    with full(client):
        assert orchestrator.monitors.stats().active == 0
