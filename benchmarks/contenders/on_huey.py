"""huey on Redis."""

from __future__ import annotations

import os

from huey import RedisHuey

from benchmarks.contenders.counting import count

huey = RedisHuey("contender", url=os.environ["BENCH_URL"], results=False)


@huey.task()
def noop(number: int) -> None:
    """Does nothing, and counts it."""
    count()


def bulk(messages: int) -> None:
    """Publish no-ops, one after the other."""
    for number in range(messages):
        noop(number)
