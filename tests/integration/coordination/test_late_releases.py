"""A permit that was released while Redis was away is released before its name is asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from orchestrator import Orchestrator, load_settings
from orchestrator.coordination import late_releases
from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually
from tests.support.lost_answers import LostAnswers

#: How each kind is asked for; each name has one permit.
ASK: dict[str, Callable[[Orchestrator], Any]] = {
    "lease": lambda orchestrator: orchestrator.lease("ledger", wait_s=5),
    "semaphore": lambda orchestrator: orchestrator.semaphore("api", 1).acquire(5),
    "pool": lambda orchestrator: orchestrator.pool("gpu", ["gpu0"]).checkout(5),
    "election": lambda orchestrator: orchestrator.election("scheduler").campaign(5),
}


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
    app.close()


def test_names_with_broken_keys_let_a_release_of_another_take_no_longer(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: each of them took half a second before the next one was tried."""
    monkeypatch.setattr(late_releases, "_PAUSE_S", 300.0)
    with LostAnswers(redis_url) as network:
        orchestrator = make(network.url)
        keys, client = orchestrator.runtime.store.keys, orchestrator.runtime.store.client
        with orchestrator.monitors.session():
            names = [f"broken{at}" for at in range(3)]
            broken = [orchestrator.election(name).campaign() for name in names]
            other = orchestrator.lease("other").acquire()
            for name in names:
                client.delete(keys.named_election(name))
                client.set(keys.named_election(name), "of somebody else")
            for led in broken:
                assert not led.release()
            network.lose(3, other._held.token, done_first=False)
            # Mostly late, too; the thread that repeats the others may have opened the connection again meanwhile.
            other.release()
            eventually(lambda: not any(state.holders for state in orchestrator.coordination.leases()))
            for name in names:
                client.delete(keys.named_election(name))
        close(orchestrator)
