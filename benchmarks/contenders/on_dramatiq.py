"""dramatiq on Redis."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.contenders.counting import count

broker = RedisBroker(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


def bulk(messages: int) -> None:
    """Publish no-ops (``group.run`` sends one after the other, too)."""
    dramatiq.group(noop.message(number) for number in range(messages)).run()
