"""What is waited for comes although Redis was away, was another server, or took no writes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from orchestrator import BrokerUnavailable, Majority, Orchestrator, Workflow
from orchestrator.embedded import EmbeddedServer
from tests.apps import ballots_app
from tests.apps.ballots_app import VOTERS, says
from tests.support import living_agents
from tests.support.coordination_under_test import close, in_session
from tests.support.eventually import eventually
from tests.support.living_agents import Page, reader
from tests.support.two_servers import replicated

_WAIT_S = 40.0

#: Begins what is waited for with the second app; returns the wait, in a thread, and what ends it.
Begin = Callable[[Orchestrator, Orchestrator], tuple[Any, Callable[[], Any]]]


def term(waits: Orchestrator, acts: Orchestrator) -> tuple[Any, Callable[[], Any]]:
    led = acts.election("leader").campaign()
    seen = led.term
    ended = in_session(waits, lambda: waits.election("leader").observe(after=seen, timeout_s=_WAIT_S))
    return ended, led.resign


def generation(waits: Orchestrator, acts: Orchestrator) -> tuple[Any, Callable[[], Any]]:
    barrier, other = (one.barrier("phase", 2, timeout_s=60) for one in (waits, acts))
    return in_session(waits, lambda: barrier.arrive("a").wait(_WAIT_S)), lambda: other.arrive("b").wait(_WAIT_S)


def decision(waits: Orchestrator, acts: Orchestrator) -> tuple[Any, Callable[[], Any]]:
    ballot = waits.propose(says(), voters=VOTERS, rule=Majority(), timeout_s=60)
    return in_session(waits, lambda: ballot.wait(_WAIT_S)), ballot.cancel


def run(waits: Orchestrator, acts: Orchestrator) -> tuple[Any, Callable[[], Any]]:
    flow = Workflow("quotes")
    flow.step("page", Page(number=1), to="reader")
    made = living_agents.make(waits.app.conf.broker_url, reader("reader"))
    begun = made.workflows.start(flow)
    return in_session(waits, lambda: begun.wait(_WAIT_S)), begun.cancel


@contextmanager
def restarted() -> Iterator[tuple[str, Callable[[], Any]]]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:

        def disturb() -> None:
            server.kill()
            server.restart()

        yield server.url, disturb


@contextmanager
def refusing() -> Iterator[tuple[str, Callable[[], Any]]]:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:

        def disturb() -> None:
            def errors() -> int:
                known: Any = client.info("stats")
                return int(known["total_error_replies"])

            before = errors()
            client.config_set("min-replicas-to-write", 1)
            # Somebody has asked, and was refused.
            eventually(lambda: errors() > before)
            client.config_set("min-replicas-to-write", 0)

        yield server.url, disturb


@contextmanager
def failed_over() -> Iterator[tuple[str, Callable[[], Any]]]:
    with replicated() as servers:
        yield servers.url, servers.fail_over


@pytest.mark.parametrize("begin", [term, generation, decision, run])
@pytest.mark.parametrize("around", [restarted, failed_over, refusing])
def test_the_wait_goes_on(begin: Begin, around: Any) -> None:
    with around() as (url, disturb):
        waits, acts = ballots_app.make(url), ballots_app.make(url)
        with acts.monitors.session():
            waiting, end = begin(waits, acts)
            with redis.Redis.from_url(url.split(";")[0]) as client:
                eventually(lambda: any(one["flags"] == "b" for one in client.client_list()))
            disturb()

            def ends() -> bool:
                try:
                    end()
                except BrokerUnavailable:
                    return False
                return True

            eventually(ends, 30)
            assert waiting.result(_WAIT_S) is not None
        close(waits)
        close(acts)
