"""The app both sides run; ``BENCH_TRANSPORT`` says which transport, and nothing else differs."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("noop", broker=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"))
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = False
if os.environ.get("BENCH_TRANSPORT") == "ours":
    app.conf.broker_transport = "orchestrator.transport:Transport"


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> None:
    """Does nothing."""
