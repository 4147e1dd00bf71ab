"""What tests ask of the Redis behind the bare app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu import Connection

from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from orchestrator.sending.ledger import LedgerRow, read_ledger, total
from orchestrator.transport.store import Store, open_store
from tests.support.worker_process import WorkerProcess

TRANSPORT = "orchestrator.transport:Transport"


class BareBroker:
    """A sender and an observer of one Redis."""

    def __init__(self, url: str, database: int = 0, **options: Any) -> None:
        url = f"{url.rpartition('/')[0]}/{database}"
        self.url = url
        # redis-py types every answer as "bytes or str or an awaitable"; here they are text.
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace")
        self.app = Celery("sender", broker=url, set_as_current=False)
        self.app.conf.broker_transport = TRANSPORT
        self.app.conf.broker_transport_options = options
        self.app.conf.task_ignore_result = True
        self.store: Store = open_store(self.app.connection_for_write())

    def send(self, task: str, *names: str, **options: Any) -> list[str]:
        """Send one message per name; returns the task ids."""
        return [self.app.send_task(task, args=[name], **options).id for name in names]

    def ledger(self, *queues: str) -> LedgerRow:
        """The ledger of these mailboxes, added up; of all, if none is named."""
        return total(row for row in read_ledger(self.store) if not queues or row.queue in queues)

    def done(self) -> dict[str, int]:
        """How often each name was finished."""
        return {name: int(count) for name, count in self.redis.hgetall("test:done").items()}

    def began(self) -> list[str]:
        """Names in the order in which they were started."""
        return [entry.split()[0] for entry in self.redis.lrange("test:began", 0, -1)]

    def go(self, *names: str) -> None:
        """Let held tasks finish."""
        for name in names:
            self.redis.rpush(f"test:go:{name}", "1")

    def letters(self) -> list[dict[str, str]]:
        """The dead letters, with what the log and their kinds have of them."""
        rows = RedisDeadLetterStore(self.store).newest(1000, "+")
        return [
            {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
            for _, fields, _ in reversed(rows)
        ]

    def close(self) -> None:
        """Close every connection."""
        self.app.close()
        self.redis.close()
        self.store.client.close()
        self.store.pool.disconnect()


@contextmanager
def kombu_connection(url: str, **options: Any) -> Iterator[Connection]:
    """A kombu connection over our transport."""
    with Connection(url, transport=TRANSPORT, transport_options=options) as connection:
        yield connection


def worker(broker: BareBroker, name: str = "w1", app: str = "tests.apps.bare", **options: Any) -> WorkerProcess:
    """A worker; by default of the app that has the transport and nothing else."""
    return WorkerProcess(app, broker.url, name=name, **options)
