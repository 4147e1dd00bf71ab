"""SAQ on Redis."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from saq import Queue

from benchmarks.contenders.counting import count

queue = Queue.from_url(os.environ["BENCH_URL"])


async def noop(context: dict[str, Any], *, number: int) -> None:
    """Does nothing, and counts it."""
    count()


settings = {"queue": queue, "functions": [noop], "concurrency": 20}


_RUNNER = asyncio.Runner()


async def _publish(messages: int) -> None:
    for start in range(0, messages, 50):
        numbers = range(start, min(start + 50, messages))
        await asyncio.gather(*(queue.enqueue("noop", number=number, ttl=1) for number in numbers))


def bulk(messages: int) -> None:
    """Publish no-ops, fifty at a time: more connections than that are refused."""
    _RUNNER.run(_publish(messages))
