"""An app, with an Orchestrator or on the transport alone, whose task asks for a retry when the test says so."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from orchestrator import Orchestrator

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")
record = redis.Redis.from_url(os.environ.get("RETRYING_RECORD_URL", URL), socket_timeout=90)

app = Celery("retrying", broker=URL, set_as_current=False)
if os.environ.get("RETRYING_SUPERVISED"):
    Orchestrator(app)
else:
    app.conf.update(broker_transport="orchestrator.transport:Transport", task_acks_late=True, task_ignore_result=True)


@app.task(name="retrying", bind=True, shared=False)
def retrying(task: Any) -> None:
    """The first attempt waits for a push to ``test:go`` and asks for a second one."""
    record.rpush("test:attempts", task.request.retries)
    if task.request.retries == 0:
        record.blpop(["test:go"], timeout=60)
        raise task.retry(countdown=0, max_retries=1)
