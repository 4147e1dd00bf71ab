"""streaq on Redis streams; needs Redis 7."""

from __future__ import annotations

import asyncio
import os

from streaq import Worker

from benchmarks.contenders.counting import count

worker = Worker(redis_url=os.environ["BENCH_URL"], concurrency=100)


@worker.task
async def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


async def _publish(messages: int) -> None:
    async with worker:
        for start in range(0, messages, 500):
            await worker.enqueue_many([noop.enqueue(number) for number in range(start, min(start + 500, messages))])


def bulk(messages: int) -> None:
    """Publish no-ops, pipelined by five hundred."""
    asyncio.run(_publish(messages))
