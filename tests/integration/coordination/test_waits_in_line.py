"""Whoever waits in line goes on waiting over a restart of Redis, whatever its process did before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from orchestrator import Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually

_PATIENCE_S = 60.0

#: How each kind is asked for; each name has one permit.
ASK: dict[str, Callable[[Orchestrator, float], Any]] = {
    "lease": lambda orchestrator, wait_s: orchestrator.lease("ledger", wait_s=wait_s),
    "semaphore": lambda orchestrator, wait_s: orchestrator.semaphore("api", 1).acquire(wait_s),
    "pool": lambda orchestrator, wait_s: orchestrator.pool("gpu", ["gpu0"]).checkout(wait_s),
    "election": lambda orchestrator, wait_s: orchestrator.election("scheduler").campaign(wait_s),
}


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


def sleeps_in(server: EmbeddedServer, command: str) -> None:
    """Wait until somebody waits in Redis."""
    with redis.Redis.from_url(server.url) as client:
        eventually(lambda: any(one["cmd"] == command for one in client.client_list()))


@pytest.mark.parametrize("kind", ASK)
def test_whoever_has_released_something_waits_on_over_a_restart_of_redis(server: EmbeddedServer, kind: str) -> None:
    holder, waiter = make(server.url), make(server.url)
    got, stop = threading.Event(), threading.Event()

    def hold() -> int:
        with ASK[kind](holder, 0) as held:
            got.set()
            stop.wait(_PATIENCE_S)
            return int(held.fence)

    def wait() -> int:
        with waiter.lease("unrelated"):
            pass
        with ASK[kind](waiter, _PATIENCE_S) as held:
            return int(held.fence)

    holds = in_session(holder, hold)
    assert got.wait(_PATIENCE_S)
    waits = in_session(waiter, wait)
    sleeps_in(server, "blpop")
    server.kill()
    # It asks several times while Redis is away.
    with pytest.raises(TimeoutError):
        waits.result(1.5)
    server.restart()
    stop.set()
    assert waits.result(_PATIENCE_S) > holds.result(_PATIENCE_S)
    close(holder)
    close(waiter)


def test_an_observer_waits_on_over_a_restart_of_redis(server: EmbeddedServer) -> None:
    orchestrator = make(server.url)
    election = orchestrator.election("scheduler")
    with orchestrator.monitors.session():
        leadership = election.campaign()
        observes = in_session(orchestrator, lambda: election.observe(leadership, timeout_s=_PATIENCE_S))
        sleeps_in(server, "xread")
        server.kill()
        with pytest.raises(TimeoutError):
            observes.result(1.5)
        server.restart()
        assert leadership.release()
        ended = observes.result(_PATIENCE_S)
        assert ended is not None
        assert (ended.number, ended.reason) == (leadership.number, "resigned")
    close(orchestrator)
