"""A command or a send behind a peer's circuit breaker, run with the interpreter of the peers.

``python breaker_peer.py URL pybreaker|purgatory|bare xadd|celery SECONDS``: the command is ``XADD``, the send Celery's
``apply_async`` of a task without a result, on its own Redis transport. Prints calls a second, and the µs of processor
time that each takes this process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio

_MESSAGE = "x" * 470
_STREAM = "bench:peer"
_QUEUE = "bench-peer"


def celery_send(url: str) -> Callable[[], Any]:
    """Send a task."""
    from celery import Celery

    app = Celery("peer", broker=url, set_as_current=False)
    task = app.task(name="noop", ignore_result=True, shared=False)(_noop)
    return lambda: task.apply_async((1,), queue=_QUEUE)


def _noop(number: int) -> None:
    """Is not run."""


def command(url: str) -> Callable[[], Any]:
    """Send a command."""
    client: Any = redis.Redis.from_url(url)
    return lambda: client.xadd(_STREAM, {"m": _MESSAGE}, maxlen=1000)


Measured = tuple[float, float]


def rate(guarded: Callable[[], Any], seconds: float) -> Measured:
    """Calls a second, and µs of processor time; the first call, which connects, is not counted."""
    guarded()
    began, count, until = time.process_time(), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        guarded()
        count += 1
    return count / seconds, 1e6 * (time.process_time() - began) / count


def pybreaker_rate(url: str, operation: Callable[[], Any], seconds: float) -> Measured:
    """Pybreaker, with its Redis storage."""
    import pybreaker

    client: Any = redis.Redis.from_url(url)
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="bench")
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30, state_storage=storage)
    return rate(lambda: breaker.call(operation), seconds)


async def purgatory_rate(url: str, what: str, seconds: float) -> Measured:
    """Purgatory, whose Redis storage works with asyncio only."""
    from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork

    factory = AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30, uow=AsyncRedisUnitOfWork(url))
    await factory.initialize()
    client: Any = redis.asyncio.Redis.from_url(url)
    send = celery_send(url)

    async def guarded() -> None:
        async with await factory.get_breaker("bench"):
            if what == "xadd":
                await client.xadd(_STREAM, {"m": _MESSAGE}, maxlen=1000)
            else:
                # Nothing else runs in this loop.
                send()

    await guarded()
    began, count, until = time.process_time(), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        await guarded()
        count += 1
    return count / seconds, 1e6 * (time.process_time() - began) / count


def main() -> None:
    """Print the rate of the peer that is named."""
    url, name, what, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    operation = command(url) if what == "xadd" else celery_send(url)
    if name == "purgatory":
        measured = asyncio.run(purgatory_rate(url, what, seconds))
    elif name == "pybreaker":
        measured = pybreaker_rate(url, operation, seconds)
    else:
        measured = rate(operation, seconds)
    print(*measured)
    redis.Redis.from_url(url).delete(_STREAM, _QUEUE)


if __name__ == "__main__":
    main()
