"""Tasks that end in ways of their own. ``app`` has an Orchestrator unless ``BARE`` is set: then the transport alone."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import redis
from celery import Celery, Task
from celery.backends.cache import CacheBackend
from celery.exceptions import Reject

from orchestrator import Orchestrator, load_settings


class Failing(CacheBackend):
    """Is away when an error is to be stored."""

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"no {state} can be stored")


def _note(task: Task) -> None:
    with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        client.rpush("test:ran", str(task.name))


def lasts(task: Task) -> None:
    _note(task)
    threading.Event().wait(60)


def fails(task: Task) -> None:
    _note(task)
    raise ValueError("failed")


def rejects(task: Task) -> None:
    _note(task)
    raise Reject("not mine", requeue=False)


def seen(task: Task, name: str, retries: int = 0, *passed: Any) -> None:
    """Notes what it sees of its message, and tries again as Celery does."""
    shown = {"headers": task.request.headers, "eta": task.request.eta, "retries": task.request.retries}
    with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        client.rpush(f"test:seen:{name}", json.dumps(shown))
    if task.request.retries < retries:
        raise task.retry(countdown=0.05, max_retries=5)


def passes_on(task: Task, name: str) -> None:
    task.app.tasks["plain.seen"].apply_async((name,), headers=task.request.headers)


def make(url: str | None = None, *, bare: bool = False, eager: bool = False) -> Celery:
    celery = Celery("settling", broker=url, set_as_current=False)
    celery.conf.update(task_acks_late=True, task_ignore_result=True, task_always_eager=eager)
    if bare:
        celery.conf.broker_transport = "orchestrator.transport:Transport"
    else:
        Orchestrator(celery, load_settings())
    bind = {"bind": True, "shared": False}
    celery.task(lasts, name="plain.lasts", time_limit=1, ignore_result=False, **bind)
    celery.task(lasts, name="plain.lasts_again", time_limit=0.5, acks_on_failure_or_timeout=False, **bind)
    celery.task(fails, name="plain.fails", acks_on_failure_or_timeout=False, **bind)
    celery.task(rejects, name="plain.rejects", **bind)
    celery.task(seen, name="plain.seen", **bind)
    celery.task(passes_on, name="plain.passes_on", **bind)
    celery.task(rejects, name="plain.rejects_stored", ignore_result=False, **bind)
    for name in ("plain.lasts", "plain.rejects_stored"):
        celery.tasks[name].backend = Failing(app=celery, backend="memory")
    return celery


app = make(os.environ.get("ORCHESTRATOR_BROKER_URL"), bare=bool(os.environ.get("BARE")))
