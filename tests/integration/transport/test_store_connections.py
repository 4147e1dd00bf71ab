"""A process has as many threads that wait as it likes: each takes a connection, and none is refused one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from celery import Celery

from orchestrator import DeliveryTimeout, NotDecided, Orchestrator, Unanimous, Workflow, load_settings
from tests.apps import ballots_app
from tests.apps.ballots_app import Fail, Scale
from tests.support.cluster import Cluster

#: More than kombu's pool of a channel has connections.
THREADS = 25


def wait_for_outcome(orchestrator: Orchestrator) -> str:
    with pytest.raises(DeliveryTimeout):
        orchestrator.send("a", Fail()).wait(1)
    return "waited"


def wait_for_decision(orchestrator: Orchestrator) -> str:
    with pytest.raises(NotDecided):
        orchestrator.propose(Scale(n=1, says={}), ["a"], Unanimous(), timeout_s=60).wait(1)
    return "waited"


def wait_for_run(orchestrator: Orchestrator) -> str:
    flow = Workflow("slow")
    flow.step("only", Fail(), to="a")
    with pytest.raises(DeliveryTimeout):
        orchestrator.workflows.start(flow).wait(1)
    return "waited"


def wait_for_lead(orchestrator: Orchestrator) -> str:
    assert orchestrator.election("nobody").observe(timeout_s=1) is None
    return "waited"


def read(orchestrator: Orchestrator) -> str:
    for _ in range(10):
        orchestrator.ledger()
        orchestrator.dead_letters.list(1)
    return "waited"


@pytest.mark.parametrize("act", [wait_for_outcome, wait_for_decision, wait_for_run, wait_for_lead, read])
def test_many_threads_of_a_process_wait_at_once(redis_url: str, act: Callable[[Orchestrator], str]) -> None:
    cluster = Cluster(redis_url, None, ballots_app.make(redis_url))
    begin = Barrier(THREADS)

    def one(_: int) -> Any:
        begin.wait(20)
        return act(cluster.orchestrator)

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(one, range(THREADS))) == ["waited"] * THREADS
    cluster.orchestrator.runtime.store.pool.disconnect()
    cluster.close()


@pytest.mark.parametrize(("options", "most"), [({}, 10_000), ({"max_connections": 3}, 3)])
def test_a_limit_is_the_users(redis_url: str, options: dict[str, Any], most: int) -> None:
    app = Celery("limited", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = options
    orchestrator = Orchestrator(app, load_settings(broker_url=redis_url))
    assert orchestrator.runtime.store.pool.max_connections == most
    app.close()
