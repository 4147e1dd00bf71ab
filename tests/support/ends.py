"""A worker of ``tests.apps.ends_app``, and what Celery has been told of the ends of its messages."""

from __future__ import annotations

import json
from typing import Any

from celery.result import AsyncResult
from redis import Redis

from orchestrator.sending.ledger import LedgerRow, read_ledger, total
from orchestrator.transport.store import open_store
from tests.apps import ends_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.ends_app"


class Ends:
    """A sender on one Redis, and an observer of it."""

    def __init__(self, url: str, *, bare: bool = False, backend: str | None = None, **settings: Any) -> None:
        self.url = url
        self.bare = bare
        self.app = ends_app.make(url, backend or url, bare=bare, **settings)
        self.redis: Any = Redis.from_url(url, decode_responses=True)
        self.store = open_store(self.app.connection_for_write())
        self._backend = backend

    def worker(self, pool: str = "solo", name: str = "w1", **options: Any) -> WorkerProcess:
        environment = {**options.pop("environment", {}), **({"ENDS_BARE": "1"} if self.bare else {})}
        if self._backend is not None:
            environment["ENDS_BACKEND"] = self._backend
        return WorkerProcess(APP, self.url, pool=pool, name=name, environment=environment, **options)

    def sig(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.signature(task, args=args, **options)

    def state(self, result: AsyncResult, state: str, worker: WorkerProcess | None = None) -> Any:
        """Wait until the backend has this state; returns the result or the error."""
        log = None if worker is None else worker.log
        eventually(lambda: result.state == state, timeout_s=30, describe=log)
        return result.result

    def signals(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """What receivers of this signal were given."""
        eventually(lambda: self.redis.llen(f"test:signal:{name}") >= count)
        return [json.loads(raw) for raw in self.redis.lrange(f"test:signal:{name}", 0, -1)]

    def errbacks(self, count: int = 1, old: str = "") -> list[str]:
        eventually(lambda: self.redis.llen(f"test:errbacks{old}") >= count)
        found: list[str] = self.redis.lrange(f"test:errbacks{old}", 0, -1)
        return found

    def ledger(self) -> LedgerRow:
        """Of all mailboxes."""
        return total(read_ledger(self.store))

    def no_endings_left(self) -> None:
        eventually(lambda: not self.redis.xlen(self.store.keys.endings), timeout_s=20)
        assert not self.redis.exists(self.store.keys.endings_taken, self.store.keys.endings_failed)

    def close(self) -> None:
        self.app.close()
        self.redis.close()
        self.store.client.close()
        self.store.pool.disconnect()
