"""Clusters that handle a send: eager mode, and a worker of each pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apps import agents_app as app
from tests.support.agents_cluster import hosted
from tests.support.cluster import NO_REDIS, Cluster


@pytest.fixture(scope="module", params=["eager", "solo", "threads", "prefork", "gevent"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(kind: str) -> Iterator[Cluster]:
    if kind == "eager":
        yield Cluster(NO_REDIS, None, app.make(NO_REDIS, eager=True))
        return
    environment = {"ORCHESTRATOR_KILL_AFTER_S": "0.5"}
    with hosted(kind, concurrency=1 if kind == "solo" else 2, environment=environment) as cluster:
        yield cluster
