"""Threads of one process that take turns with a lease; prints when each turn began and ended.

``python -m benchmarks.lease_holders URL ours|theirs THREADS ALL``, where ``ALL`` are the threads of all processes:
waits until the list ``bench:go`` has an element, takes turns until ``bench:turns`` is used up, and prints ``ACQUIRED
RELEASED HOLDER`` for each of its own, by the machine's monotonic clock.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis

from benchmarks.coordination_app import make

#: How long each turn lasts.
HOLD_S = 0.002

_PATIENCE_S = 120


def turns(client: Any, acquire: Callable[[], Any], found: list[tuple[float, float, str]]) -> None:
    """Take turns until none is left."""
    while client.decr("bench:turns") >= 0:
        held = acquire()
        acquired = time.monotonic()
        time.sleep(HOLD_S)
        released = time.monotonic()
        held.release()
        found.append((acquired, released, f"{os.getpid()}-{threading.get_ident()}"))


def main() -> None:
    """Take turns in threads."""
    url, whose, count, everybody = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    client: Any = redis.Redis.from_url(url, socket_timeout=_PATIENCE_S)
    orchestrator = make(url) if whose == "ours" else None
    found: list[tuple[float, float, str]] = []
    ready = threading.Barrier(count + 1)

    def run() -> None:
        with ExitStack() as stack:
            if orchestrator is not None:
                stack.enter_context(orchestrator.monitors.session())

            def ours() -> Any:
                assert orchestrator is not None
                return orchestrator.lease("bench", wait_s=600).acquire()

            def theirs() -> Any:
                lock = client.lock("bench:lock", timeout=60)
                lock.acquire()
                return lock

            ready.wait()
            client.blmove("bench:go", "bench:go", _PATIENCE_S, "LEFT", "LEFT")
            turns(client, theirs if orchestrator is None else ours, found)
            # Nobody's session is opened or closed while others still take turns.
            if client.incr("bench:ended") == everybody:
                client.rpush("bench:end", 1)
            client.blmove("bench:end", "bench:end", _PATIENCE_S, "LEFT", "LEFT")

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    client.incr("bench:ready")
    for thread in threads:
        thread.join()
    for turn in found:
        print(*turn)


if __name__ == "__main__":
    main()
