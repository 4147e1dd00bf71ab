"""Clusters that handle an agent's message: eager mode, and a worker of each pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apps import agents_app as app
from tests.support.agent_sends import purge
from tests.support.agents_cluster import hosted
from tests.support.cluster import NO_REDIS, Cluster


@pytest.fixture(scope="module", params=["eager", "solo", "threads", "prefork"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Every kind of cluster that can handle a message."""
    if request.param == "eager":
        yield Cluster(NO_REDIS, None, app.make(NO_REDIS, eager=True))
        return
    with hosted(request.param, concurrency=2 if request.param != "solo" else 1) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["solo", "threads", "prefork"])
def workers(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Workers only. One that holds tasks, so more than one at a time where the pool can."""
    with hosted(request.param, concurrency=2 if request.param != "solo" else 1) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(workers: Cluster) -> Iterator[Cluster]:
    """A worker; whatever a test leaves pending is removed after it."""
    yield workers
    purge(workers)
