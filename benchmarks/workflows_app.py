"""The app whose workflows are measured: with an Orchestrator, or as plain Celery with a result backend in Redis."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_ready

from orchestrator import Orchestrator

#: Counter in Redis of the workers that are up.
READY = "bench:ready"

#: Counter in Redis of the bodies of chords that have run.
BODIES = "bench:bodies"

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")

app = Celery("workflows", broker=URL, set_as_current=False)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False
orchestrator: Orchestrator | None = None
if os.environ.get("BENCH_SIDE") == "ours":
    orchestrator = Orchestrator(app)
else:
    app.conf.result_backend = URL
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    # So that what a killed worker held comes back while the benchmark waits.
    app.conf.broker_transport_options = {"visibility_timeout": 10}


@worker_ready.connect  # type: ignore[untyped-decorator]
def _say_ready(**_: object) -> None:
    with redis.Redis.from_url(URL) as client:
        client.incr(READY)


@app.task(name="noop", shared=False)  # type: ignore[untyped-decorator]
def noop(value: Any = None, *_: Any) -> Any:
    """Returns what it is given."""
    return value


@app.task(name="count", shared=False)  # type: ignore[untyped-decorator]
def count(results: list[Any]) -> int:
    """The number of results."""
    return len(results)


@app.task(name="body", shared=False)  # type: ignore[untyped-decorator]
def body(results: list[Any], chord: int) -> int:
    """Notes that a chord has got as far as its body."""
    with redis.Redis.from_url(URL) as client:
        client.hincrby(BODIES, str(chord), 1)
    return len(results)
