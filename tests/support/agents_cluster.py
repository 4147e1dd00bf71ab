"""Clusters of ``tests.apps.agents_app``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.embedded import EmbeddedServer
from tests.apps import agents_app
from tests.support.cluster import Cluster
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.agents_app"
QUEUES = "worker,celery"


def agents_on(url: str, worker: WorkerProcess | None) -> Cluster:
    """A cluster on a Redis that a test has started."""
    return Cluster(url, worker, agents_app.make(url))


@contextmanager
def hosted(pool: str = "solo", concurrency: int = 1, **options: Any) -> Iterator[Cluster]:
    """A Redis of its own with a worker that hosts the agents."""
    options.setdefault("queues", QUEUES)
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool=pool, concurrency=concurrency, **options) as worker,
    ):
        cluster = agents_on(server.url, worker)
        yield cluster
        cluster.close()


@contextmanager
def unhosted() -> Iterator[Cluster]:
    """A Redis of its own without a worker."""
    with EmbeddedServer() as server:
        cluster = agents_on(server.url, None)
        yield cluster
        cluster.close()
