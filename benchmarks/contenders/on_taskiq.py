"""taskiq on Redis streams, its broker that acknowledges."""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from benchmarks.contenders.counting import count

broker = RedisStreamBroker(url=os.environ["BENCH_URL"])


@broker.task
async def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


_RUNNER = asyncio.Runner()
_STARTED: set[str] = set()


async def _publish(messages: int) -> None:
    if not _STARTED:
        await broker.startup()
        _STARTED.add("broker")
    for start in range(0, messages, 100):
        await asyncio.gather(*(noop.kiq(number) for number in range(start, min(start + 100, messages))))


def bulk(messages: int) -> None:
    """Publish no-ops, a hundred at a time."""
    _RUNNER.run(_publish(messages))
