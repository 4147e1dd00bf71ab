"""A worker of ``tests.apps.settling_app``, with an Orchestrator or with the transport alone, and what it has done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.embedded import EmbeddedServer
from tests.apps import settling_app
from tests.support.bare_broker import BareBroker
from tests.support.worker_process import WorkerProcess

#: Each pool with an Orchestrator ('') and with the transport alone ('1'), and what pytest calls that.
WITHOUT_ORCHESTRATOR = ("", "1")


class SettlingCluster:
    """A worker, its broker, and an app that sends by Celery's means."""

    def __init__(self, url: str, worker: WorkerProcess, pool: str, bare: bool) -> None:
        self.worker, self.pool, self.bare = worker, pool, bare
        self.broker = BareBroker(url)
        self.redis = self.broker.redis
        self.app = settling_app.make(url, bare=True)

    def close(self) -> None:
        """Close every connection."""
        self.broker.close()
        self.app.close()


@contextmanager
def settling(pool: str, bare: str, **options: Any) -> Iterator[SettlingCluster]:
    """A Redis of its own and a worker; ``bare`` is '1' for the transport alone, else ''."""
    environment = {"BARE": bare}
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.settling_app", server.url, pool=pool, queues="celery", environment=environment, **options
        ) as worker,
    ):
        cluster = SettlingCluster(server.url, worker, pool, bool(bare))
        yield cluster
        cluster.close()
