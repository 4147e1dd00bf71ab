"""A Redis of its own, one worker of ``tests.apps.agents_app`` on it, and an app that sends to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from orchestrator import Orchestrator
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.ledger import LedgerRow
from tests.apps import agents_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.agents_app"
QUEUES = "worker,celery"


class House:
    """What a test asks and tells."""

    def __init__(self, url: str, worker: WorkerProcess | None, orchestrator: Orchestrator | None = None) -> None:
        self.url = url
        self.worker = worker
        self.orchestrator = orchestrator or agents_app.make(url)
        self.redis = Redis.from_url(url)

    @property
    def keys(self) -> Any:
        return self.orchestrator.store.keys

    def log(self) -> str:
        return self.worker.log() if self.worker is not None else ""

    def row(self, queue: str = "worker") -> LedgerRow:
        """A mailbox' ledger."""
        return next((row for row in self.orchestrator.ledger() if row.queue == queue), LedgerRow(queue))

    def idle(self, timeout_s: float = 15.0) -> list[LedgerRow]:
        """The ledger, once nothing is pending."""

        def nothing_pending() -> list[LedgerRow]:
            rows = self.orchestrator.ledger()
            return rows if all(row.pending == 0 for row in rows) else []

        return eventually(nothing_pending, timeout_s, self.log)

    def put(self, raw: bytes, queue: str = "worker") -> None:
        """An entry as no publisher of ours would write it, accepted as any other."""
        k, store = self.keys, self.orchestrator.store
        store.run("publish", [k.step(queue, store.steps[1]), k.ledger(queue)], [0, store.group, raw])

    def letter_after(self, act: Callable[[], Any], timeout_s: float = 10.0) -> DeadLetter:
        """Do something, and return the one dead letter that comes of it."""
        log = self.orchestrator.dead_letters
        before = {letter.id for letter in log.list(1000)}
        act()
        (letter,) = eventually(
            lambda: [letter for letter in log.list(1000) if letter.id not in before], timeout_s, self.log
        )
        return letter

    def close(self) -> None:
        self.orchestrator.app.close()
        self.redis.close()


@contextmanager
def hosted(pool: str = "solo", concurrency: int = 1, **options: Any) -> Iterator[House]:
    """A house with a worker in it."""
    options.setdefault("queues", QUEUES)
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool=pool, concurrency=concurrency, **options) as worker,
    ):
        house = House(server.url, worker)
        yield house
        house.close()


@contextmanager
def unhosted() -> Iterator[House]:
    """A house without a worker."""
    with EmbeddedServer() as server:
        house = House(server.url, None)
        yield house
        house.close()


def envelope(
    task: Any = "worker.Add",
    args: Any = ({"a": 1, "b": 2},),
    kwargs: Any = None,
    *,
    body: Any = None,
    headers: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **top: Any,
) -> dict[str, Any]:
    """A message as Celery's protocol 2 has it, to be spoilt."""
    if body is None:
        body = json.dumps([args, {} if kwargs is None else kwargs, {}]).encode()
    if isinstance(body, bytes):
        body = base64.b64encode(body).decode()
    all_headers = {"lang": "py", "task": task, "id": "spoilt", "retries": 0, **(headers or {})}
    for name in without:
        all_headers.pop(name)
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": all_headers,
        "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "t"},
        **top,
    }
