"""A permit that was released while Redis was away is released before its name is asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from orchestrator import Orchestrator, load_settings
from orchestrator.coordination import late_releases
from orchestrator.coordination.late_releases import LateReleases
from orchestrator.core.coordination.lease import Kind
from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually

#: How each kind is asked for; each name has one permit.
ASK: dict[str, Callable[[Orchestrator], Any]] = {
    "lease": lambda orchestrator: orchestrator.lease("ledger", wait_s=5),
    "semaphore": lambda orchestrator: orchestrator.semaphore("api", 1).acquire(5),
    "pool": lambda orchestrator: orchestrator.pool("gpu", ["gpu0"]).checkout(5),
    "election": lambda orchestrator: orchestrator.election("scheduler").campaign(5),
}


def finish(late: LateReleases) -> None:
    """Have the thread end that repeats releases, which Redis takes now: it must not outlast the server."""
    late._pause.set()
    eventually(lambda: not late._late)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.mark.parametrize("kind", ASK)
def test_whoever_has_left_the_block_may_ask_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # Whoever asks does not wait for the thread that repeats releases.
    monkeypatch.setattr(late_releases, "_PAUSE_S", 30.0)
    app = Celery(uuid4().hex, broker=server.url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=server.url))
    with orchestrator.monitors.session():
        with ASK[kind](orchestrator) as held:
            before = held.fence
            server.kill()
        server.restart()
        with ASK[kind](orchestrator) as held:
            assert held.fence > before
            held.check()
    finish(orchestrator.runtime.redis.named_leases._late)
    app.close()


def test_a_name_with_a_broken_key_holds_up_no_release_of_another(server: EmbeddedServer) -> None:
    """Regression: what was released after it stayed held until its owner ended, or the key was repaired."""
    app = Celery(uuid4().hex, broker=server.url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=server.url))
    store = orchestrator.runtime.store
    with orchestrator.monitors.session():
        broken, other = orchestrator.election("broken").campaign(), orchestrator.lease("other").acquire()
        key = store.keys.named_election("broken")
        store.client.delete(key)
        store.client.set(key, "of somebody else")
        assert not broken.release()
        server.kill()
        assert not other.release()
        server.restart()
        eventually(lambda: [state.name for state in orchestrator.coordination.leases() if state.holders] == [])
        store.client.delete(key)
        finish(orchestrator.runtime.redis.named_leases._late)
    app.close()


def test_names_with_broken_keys_let_a_release_of_another_take_no_longer(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: each of them took half a second before the next one was tried."""
    monkeypatch.setattr(late_releases, "_PAUSE_S", 300.0)
    orchestrator = make(redis_url)
    keys, client = orchestrator.runtime.store.keys, orchestrator.runtime.store.client
    leases: Any = orchestrator.runtime.redis.named_leases
    with orchestrator.monitors.session():
        names = [f"broken{at}" for at in range(3)]
        broken = [orchestrator.election(name).campaign() for name in names]
        other = orchestrator.lease("other").acquire()
        for name in names:
            client.delete(keys.named_election(name))
            client.set(keys.named_election(name), "of somebody else")
        for led in broken:
            assert not led.release()
        # As if Redis had been away when it was released.
        leases._late.add(leases._release_call(Kind.LEASE, "other", other._held.token, "released"))
        eventually(lambda: not any(state.holders for state in orchestrator.coordination.leases()))
        for name in names:
            client.delete(keys.named_election(name))
        finish(leases._late)
    close(orchestrator)
