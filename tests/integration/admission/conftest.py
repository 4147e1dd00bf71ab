"""Clusters on which flow control is tested: eager mode, and a real worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.apps import flow_app as app
from tests.support.cluster import NO_REDIS, Cluster
from tests.support.worker_process import WorkerProcess

HOSTED = "eu,us,fused,long-fused,brief,sluggish,shared"


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    """A Redis and a worker."""
    with EmbeddedServer() as server, WorkerProcess("tests.apps.flow_app", server.url, queues=HOSTED) as worker:
        cluster = Cluster(server.url, worker, app.make(server.url))
        yield cluster
        cluster.close()


@pytest.fixture(scope="module", params=["eager", "redis_cluster"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Every kind of cluster that can handle a message."""
    if request.param == "eager":
        return Cluster(NO_REDIS, None, app.make(NO_REDIS, eager=True))
    found: Cluster = request.getfixturevalue("redis_cluster")
    return found
