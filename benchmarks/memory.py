"""What waiting messages cost Redis, and what is freed once they are settled: ``python -m benchmarks.memory``.

Real Celery messages; claimed and settled by the transport's own scripts. The last line is the result.
"""

from __future__ import annotations

import argparse
from typing import Any

from celery import Celery

from benchmarks.machine import machine
from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store, open_store

_BATCH = 1000
_QUEUE = "celery"


def _app(url: str) -> Celery:
    app = Celery("memory", broker=url, set_as_current=False)
    app.conf.broker_transport = "orchestrator.transport:Transport"
    return app


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def _one_message(app: Celery, store: Store) -> bytes:
    """A message as a Celery app without options publishes it."""
    app.send_task("billing.charge", args=["order-1", 500])
    client: Any = store.client
    stream = store.keys.stream(_QUEUE, 0)
    ((_, fields),) = client.xrange(stream)
    client.flushall()
    message: bytes = fields[b"m"]
    return message


def _settle_all(store: Store, count: int) -> None:
    k, client = store.keys, store.client
    raw, _ = store.run(*commands.register(k, "memory:1", {"node": "memory"}))
    stream = k.stream(_QUEUE, 0)
    claim: Any = client
    for _ in range(0, count, _BATCH):
        ((_, entries),) = claim.xreadgroup(GROUP, raw, {stream: ">"}, count=_BATCH)
        ids = [entry for entry, _ in entries]
        store.run(*commands.settle(stream, k.ledger(_QUEUE), "handled", ids))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").strip())
    parser.add_argument("--messages", type=int, default=1_000_000)
    count = parser.parse_args().messages
    print(machine())
    with EmbeddedServer() as server:
        app = _app(server.url)
        store = open_store(app.connection_for_write())
        message = _one_message(app, store)
        k = store.keys
        stream = k.stream(_QUEUE, 0)
        store.run(*commands.declare(k, _QUEUE, [stream]))
        empty = _used(store.client)
        for _ in range(0, count, _BATCH):
            store.run(*commands.publish(stream, k.ledger(_QUEUE), [message] * _BATCH))
        waiting = _used(store.client) - empty
        payload = len(message) * count
        print(f"{count} messages of {len(message)} bytes: payload {payload / 1e6:.0f} MB, Redis {waiting / 1e6:.0f} MB")
        _settle_all(store, count)
        left = _used(store.client) - empty
        app.close()
    print(
        f"bench-memory: messages={count} bytes_each={len(message)} redis_bytes_each={waiting / count:.0f} "
        f"ratio={waiting / payload:.3f} left_after_settling_bytes={left}"
    )


if __name__ == "__main__":
    main()
