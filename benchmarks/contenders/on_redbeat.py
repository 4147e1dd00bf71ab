"""RedBeat: schedules that are due at once, fired by its own scheduler. Runs in the peers' environment.

``python -m benchmarks.contenders.on_redbeat fill NUMBER SECONDS`` adds them, due in so many seconds;
``… publish NUMBER`` publishes as many messages as Celery does, without a scheduler.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import schedule

app = Celery("redbeat-contender", broker=os.environ["BENCH_URL"])
app.conf.redbeat_redis_url = os.environ["BENCH_URL"]
# Its lock would only add to what it does.
app.conf.redbeat_lock_key = None
app.conf.beat_max_loop_interval = 1
app.conf.task_ignore_result = True
app.conf.result_expires = None


@app.task(name="noop")
def noop(number: int) -> None:
    """Does nothing."""


def fill(number: int, seconds: float) -> None:
    """Add schedules of an hour's interval whose next time is ``seconds`` from now."""
    from redbeat import RedBeatSchedulerEntry

    last = datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=seconds)
    for n in range(number):
        RedBeatSchedulerEntry(
            f"s{n:06d}", "noop", schedule(timedelta(hours=1), app=app), args=[n], app=app, last_run_at=last
        ).save()


def publish(number: int) -> None:
    """Publish, and print how many a second."""
    began = time.monotonic()
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(number):
            noop.apply_async((n,), producer=producer)
    print(number / (time.monotonic() - began))


if __name__ == "__main__":
    what, *values = sys.argv[1:]
    if what == "fill":
        fill(int(values[0]), float(values[1]))
    else:
        publish(int(values[0]))
