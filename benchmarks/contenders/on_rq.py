"""rq, with the worker that does not fork for each job."""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue

from benchmarks.contenders.counting import count

queue = Queue("contender", connection=Redis.from_url(os.environ["BENCH_URL"]))


def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


def bulk(messages: int) -> None:
    """Publish no-ops, pipelined by five hundred."""
    for start in range(0, messages, 500):
        numbers = range(start, min(start + 500, messages))
        queue.enqueue_many([Queue.prepare_data(noop, (number,), result_ttl=0) for number in numbers])
