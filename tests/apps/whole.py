"""A Celery app on the transport alone that uses what Celery has: results, canvas, limits, broadcasts, events."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery, Task
from celery.exceptions import Reject
from kombu import Exchange, Queue
from kombu.common import Broadcast

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("whole", broker=URL, backend=URL, set_as_current=False)
topics = Exchange("topics", type="topic")
app.conf.update(
    broker_transport="orchestrator.transport:Transport",
    task_acks_late=True,
    task_send_sent_event=True,
    broker_connection_retry_on_startup=True,
    task_queues=[
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("europe", topics, routing_key="*.eu"),
        Broadcast("everybody"),
    ],
)

record = redis.Redis.from_url(URL, socket_timeout=90)


@app.task(name="note", shared=False)
def note(name: str) -> str:
    """Run, and be seen: when, and in which worker process."""
    record.rpush(f"test:ran:{name}", f"{time.time()} {os.getpid()}")
    return name


@app.task(name="hold", shared=False)
def hold(name: str) -> None:
    """Run until the test lets go: a push to ``test:go:NAME``, at most 60 s."""
    note(name)
    record.blpop([f"test:go:{name}"], timeout=60)


@app.task(name="limited", rate_limit="2/s", shared=False)
def limited(name: str) -> None:
    """At most two of these a second."""
    note(name)


@app.task(name="add", shared=False)
def add(a: int, b: int) -> int:
    """For canvas."""
    return a + b


@app.task(name="total", shared=False)
def total(numbers: list[int]) -> int:
    """For chords."""
    return sum(numbers)


@app.task(name="reluctant", bind=True, shared=False)
def reluctant(self: Task, name: str) -> str:
    """Refuses twice, then gives in."""
    note(name)
    if record.llen(f"test:ran:{name}") < 3:
        raise Reject(requeue=True)
    return name


@app.task(name="refused", shared=False)
def refused(name: str) -> None:
    """Will not have it."""
    note(name)
    raise Reject("no", requeue=False)
