"""The app both sides run; ``BENCH_TRANSPORT`` says which transport, and nothing else differs."""

from __future__ import annotations

import os

import redis
from celery import Celery
from celery.signals import worker_ready

#: Counter in Redis of the workers that are up.
READY = "bench:ready"
#: The variable that says whether our transport claims ahead: 1 or 0.
CLAIM_AHEAD = "BENCH_CLAIM_AHEAD"

app = Celery("noop", broker=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"))
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False
if os.environ.get("BENCH_TRANSPORT") == "ours":
    app.conf.broker_transport = "orchestrator.transport:Transport"
    app.conf.broker_transport_options = {"claim_ahead": os.environ.get(CLAIM_AHEAD) == "1"}


@worker_ready.connect  # type: ignore[untyped-decorator]
def _say_ready(**_: object) -> None:
    with redis.Redis.from_url(app.conf.broker_url) as client:
        client.incr(READY)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> None:
    """Does nothing."""
