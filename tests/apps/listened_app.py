"""An app in which somebody may listen: with ``LISTENS`` set, to Celery's signals around a task."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery, Task, current_task, signals
from celery._state import get_current_worker_task

from orchestrator import Orchestrator, Retry, load_settings

#: Signals that only Celery's own way sends.
SIGNALS = ("task_received", "task_prerun", "task_success", "task_postrun")

#: Of these one message's request differs from another's.
OWN = ("id", "root_id", "correlation_id", "orc_fence", "orc_incarnation", "properties", "reply_to", "headers")


class Hooked(Task):
    """A base class of the user's own."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        _note("before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        _note("on_success")

    def after_return(self, status: str, *_: Any) -> None:
        _note(f"after_return {status}")


class Failing(Task):
    """A base class that wants to know of failures alone."""

    abstract = True

    def on_failure(self, exc: BaseException, *_: Any) -> None:
        _note(f"on_failure {exc}")


def _note(what: str) -> None:
    with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        client.rpush("test:noted", what)


def request_of(task: Task, number: int) -> dict[str, Any]:
    """What a task can know of its message."""
    request = task.request
    names = {*vars(request), *vars(type(request).__mro__[-2])}
    return {
        "kind": type(request).__name__,
        "known": {
            name: repr(getattr(request, name))
            for name in names
            if not name.startswith("_") and name not in OWN and not callable(getattr(request, name))
        },
        "headers": sorted(request.headers or {}),
        "current": current_task.name,
        "working": get_current_worker_task().name,
    }


def noted(number: int) -> None:
    _note(f"ran {number}")


def quick(number: int) -> None:
    """Takes no time."""


def fail(number: int) -> None:
    _note(f"ran {number}")
    raise ValueError(f"number {number}")


def hold(number: int) -> None:
    with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
        client.blpop([f"test:go:{number}"], timeout=30)


def make(url: str | None = None) -> Orchestrator:
    celery = Celery("listened", broker=url, set_as_current=False)
    celery.conf.task_ignore_result = True
    orchestrator = Orchestrator(celery, load_settings())
    celery.task(request_of, name="plain.request", bind=True, shared=False)
    celery.task(request_of, name="plain.unstored", bind=True, ignore_result=False, shared=False)
    celery.task(noted, name="plain.hooked", base=Hooked, shared=False)
    celery.task(quick, name="plain.quick", shared=False)
    celery.task(fail, name="plain.fail", base=Failing, shared=False)
    celery.task(hold, name="plain.hold", shared=False)
    return orchestrator


NEVER = Retry(max_retries=0)

orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app

if os.environ.get("LISTENS"):
    for _name in SIGNALS:
        getattr(signals, _name).connect(lambda _name=_name, **_: _note(_name), weak=False)
