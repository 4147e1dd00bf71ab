"""Celery alone on its stock Redis transport."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.contenders.counting import count

app = Celery("contender", broker=os.environ["BENCH_URL"])
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False
app.conf.broker_connection_retry_on_startup = True
# What Celery recommends for many short tasks.
app.conf.worker_prefetch_multiplier = 64


@app.task(name="noop")
def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


def bulk(messages: int) -> None:
    """Publish no-ops, pipelined (``Producer.batch``, kombu 5.7)."""
    with app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=500):
        for number in range(messages):
            noop.apply_async((number,), producer=producer)
