"""The app whose schedules ``make bench-schedules`` has fired."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import Orchestrator

app = Celery("bench-schedules", broker=os.environ["BENCH_URL"])
app.conf.task_ignore_result = True
app.conf.result_expires = None
orchestrator = Orchestrator(app)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> None:
    """Does nothing."""
