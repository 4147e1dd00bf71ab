"""Processes that wait for an outcome sweep, if a death needs it or nobody else looks for the dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import Any

import pytest

from orchestrator import DeliveryTimeout, Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.apps import calls_app
from tests.apps.calls_app import Quote
from tests.support.cluster import Cluster
from tests.support.eventually import eventually

#: Longer than the second after which a wait looks.
WAIT_S = 2.5

#: A Redis in which there was no sweep yet needs none for as long as a test takes.
STALE_S = 60.0


def wait_for_delivery(orchestrator: Orchestrator, timeout_s: float) -> None:
    with pytest.raises(DeliveryTimeout):
        orchestrator.send("billing", Quote(number=1), when_down="queue").wait(timeout_s)


def wait_for_reply(orchestrator: Orchestrator, timeout_s: float) -> None:
    with orchestrator.runtime.redis.backend.inbox("i") as inbox:
        assert inbox.read(monotonic() + timeout_s) == []


def wait_for_run(orchestrator: Orchestrator, timeout_s: float) -> None:
    assert not orchestrator.runtime.redis.runs.reads.wait("r", timeout_s)


def wait_for_decision(orchestrator: Orchestrator, timeout_s: float) -> None:
    store = orchestrator.runtime.store
    fields: dict[Any, Any] = {"ends_ms": int((time() + 60) * 1000), "message": "m", "proposal": "{}", "rule": "r"}
    store.client.hset(store.keys.ballot("b"), mapping=fields)
    assert orchestrator.runtime.redis.ballots.wait("b", timeout_s) is None


def wait_for_items(orchestrator: Orchestrator, timeout_s: float) -> None:
    assert orchestrator.runtime.redis.distribution.outcomes(["d"], timeout_s) == {}


WAITS = [wait_for_delivery, wait_for_reply, wait_for_run, wait_for_decision, wait_for_items]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def alone(server: EmbeddedServer) -> Iterator[Cluster]:
    """A process on an empty Redis."""
    cluster = Cluster(server.url, None, calls_app.make(server.url, sweep_stale_s=STALE_S))
    cluster.redis.flushdb()
    yield cluster
    cluster.close()


def prove_a_death(cluster: Cluster) -> None:
    """As a heart does."""
    cluster.redis.hset(cluster.keys.sweep, "proved", "1")


def swept_by(cluster: Cluster) -> str:
    return (cluster.redis.hget(cluster.keys.sweep, "by") or b"").decode()


def is_swept(cluster: Cluster) -> bool:
    return bool(swept_by(cluster)) and not cluster.redis.hexists(cluster.keys.sweep, "turn_of")


def waits_until_it_is_swept(
    cluster: Cluster, wait: Callable[[Orchestrator, float], None], is_over: Callable[[], bool] | None = None
) -> None:
    """Wait, and make sure that after the first slice of a second there is a look, and a sweep; wait for its end."""
    sweeper: Any = cluster.orchestrator.runtime.store.waiters_sweeper
    after_slice, begin, done = sweeper.after_slice, sweeper._begin, list[str]()

    def noted(what: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any) -> Any:
            done.append(what)
            return act(*args)

        return note

    sweeper._begin = noted("sweep", begin)
    sweeper.after_slice = noted("slice", lambda run: after_slice(noted("look", run)))
    # Again, and for longer, if this process came to its look, a second later, only when the wait was over.
    for times in (1, 2, 4):
        wait(cluster.orchestrator, times * WAIT_S)
        if done:
            break
    assert done[:3] == ["slice", "look", "sweep"]
    eventually(is_over or (lambda: is_swept(cluster)), 20)


@pytest.mark.parametrize("wait", WAITS)
def test_who_waits_sweeps_for_a_proved_death_after_a_second(
    alone: Cluster, wait: Callable[[Orchestrator, float], None]
) -> None:
    prove_a_death(alone)
    wait(alone.orchestrator, 0.8)
    assert swept_by(alone) == ""
    waits_until_it_is_swept(alone, wait)
    assert swept_by(alone).startswith("waiter@")
    assert swept_by(alone).endswith(f":{os.getpid()}")


def test_who_waits_leaves_sweeping_to_others_while_they_do(alone: Cluster) -> None:
    wait_for_run(alone.orchestrator, WAIT_S)
    assert swept_by(alone) == ""


def test_who_waits_sweeps_for_a_missed_heartbeat(alone: Cluster) -> None:
    alone.redis.zadd(alone.keys.leases, {"gone@host:1#1": (time() - 5) * 1000})
    waits_until_it_is_swept(alone, wait_for_run)


def test_who_waits_sweeps_if_nobody_has_for_long(alone: Cluster) -> None:
    alone.redis.hset(alone.keys.sweep, "at_ms", int((time() - STALE_S - 1) * 1000))
    waits_until_it_is_swept(alone, wait_for_run)


def test_many_threads_that_wait_look_once_a_second_together(alone: Cluster) -> None:
    def looks() -> int:
        found: Any = alone.redis.info("commandstats")
        return int(found.get("cmdstat_zrange", {}).get("calls", 0))

    alone.orchestrator.runtime.store  # noqa: B018
    before = looks()
    threads = [threading.Thread(target=wait_for_run, args=(alone.orchestrator, 2.7)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= looks() - before <= 3


def test_a_wait_during_a_sweep_ends_at_its_time(alone: Cluster) -> None:
    """What the sweep runs may take its time."""
    begun, go = threading.Event(), threading.Event()
    sweeper = alone.orchestrator.runtime.store.waiters_sweeper
    assert sweeper is not None

    def slow() -> None:
        begun.set()
        go.wait(20)

    prove_a_death(alone)
    options = sweeper._sweeper._options
    object.__setattr__(options, "on_sweep", slow)
    waits_until_it_is_swept(alone, wait_for_run, begun.is_set)
    go.set()
