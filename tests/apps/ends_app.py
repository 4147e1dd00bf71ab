"""A Celery app whose messages end in many ways, with a result backend of its own.

``ENDS_BARE=1`` has the transport alone, without an Orchestrator. Receivers of Celery's
signals and errbacks record in Redis what has ended, for tests to read.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import redis
from celery import Celery, Task, signals
from celery.concurrency.base import BasePool
from celery.exceptions import Reject, WorkerShutdown
from celery.worker.worker import WorkController
from kombu import Exchange, Queue
from kombu.common import Broadcast

from orchestrator import Agent, Mailbox, Message, Orchestrator, handles, load_settings

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")
BACKEND = os.environ.get("ENDS_BACKEND", URL)


class Work(Message):
    name: str = ""


class Small(Agent):
    """Its mailbox holds two messages and drops the oldest."""

    name = "small"
    mailbox = Mailbox(2, overflow="drop_oldest")

    @handles(Work)
    def work(self, message: Work) -> str:
        return message.name


def _record() -> Any:
    return redis.Redis.from_url(URL, socket_timeout=90)


def began(name: str) -> int:
    return int(_record().hincrby("test:runs", name, 1))


def note(name: str) -> str:
    began(name)
    return name


def fails(name: str) -> None:
    began(name)
    raise ValueError(name)


def fails_once(name: str) -> str:
    if began(name) == 1:
        raise ValueError(name)
    return name


def deadly(name: str) -> None:
    """Kills the process that runs it."""
    began(name)
    os.kill(os.getpid(), signal.SIGKILL)


def stops(name: str) -> None:
    """Raises what Celery's own code raises to stop a worker."""
    began(name)
    raise WorkerShutdown(0)


def interrupts(name: str) -> None:
    """Leaves the interpreter, as Ctrl+C does."""
    began(name)
    raise KeyboardInterrupt


def hold(name: str) -> str:
    """Runs until the test pushes to ``test:go:NAME``."""
    began(name)
    _record().blpop([f"test:go:{name}"], timeout=60)
    return name


def refuses(name: str, requeue: bool = False) -> None:
    began(name)
    raise Reject(name, requeue=requeue)


def again(task: Task, name: str) -> str:
    if began(name) < 3:
        raise task.retry(countdown=0.01, max_retries=5)
    return name


def collected(values: list[Any]) -> str:
    _record().rpush("test:collected", json.dumps(values))
    return "collected"


def errback(task_id: str) -> None:
    _record().rpush("test:errbacks", task_id)


def errback_with_error(request: Any, error: BaseException, traceback: Any) -> None:
    _record().rpush("test:errbacks-old", f"{request.id} {type(error).__name__}")


def make(broker_url: str | None = None, backend: str | None = None, *, bare: bool = False, **settings: Any) -> Celery:
    """An app of its own; ``.orchestrator`` unless it is bare."""
    app = Celery("ends", broker=broker_url or URL, backend=backend or BACKEND, set_as_current=False)
    app.conf.task_queues = [
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("small", Exchange("small"), routing_key="small"),
        Broadcast("everybody"),
    ]
    app.conf.broker_connection_retry_on_startup = True
    app.conf.result_extended = True
    # More is claimed than runs.
    app.conf.worker_prefetch_multiplier = 4
    # Soon enough for a test.
    app.conf.result_backend_max_retries = 2
    app.conf.task_acks_late = app.conf.task_reject_on_worker_lost = True
    app.conf.broker_transport_options = json.loads(os.environ.get("ENDS_OPTIONS", "{}"))
    if bare:
        app.conf.broker_transport = "orchestrator.transport:Transport"
    else:
        Orchestrator(app, load_settings(broker_url=broker_url or URL, **settings)).host(Small)
    for function in (note, fails, fails_once, stops, interrupts, deadly, hold, refuses, collected, errback):
        app.task(name=function.__name__, shared=False)(function)
    app.task(name="errback_with_error", shared=False)(errback_with_error)
    app.task(name="again", bind=True, shared=False)(again)
    app.task(name="quiet_deadly", ignore_result=True, shared=False)(deadly)
    return app


def _noting(name: str) -> Any:
    def noted(sender: Any = None, **fields: Any) -> None:
        request = fields.get("request")
        task_id = fields.get("task_id") or getattr(request, "id", None) or fields.get("id")
        error = fields.get("exception")
        said = {"id": task_id, "error": type(error).__name__ if error is not None else "", "pid": os.getpid()}
        said |= {"expired": fields["expired"]} if "expired" in fields else {}
        _record().rpush(f"test:signal:{name}", json.dumps(said))

    return noted


def _run_and_leave(target: Any) -> Any:
    """End the pool's thread or greenlet without a word: Celery's pools let this exception pass."""

    def run(*args: Any, **kwargs: Any) -> None:
        began("silent")
        raise WorkerShutdown(0)

    return run


def _lose_messages(where: str) -> None:
    """Lose each message whose id begins with ``lost`` on its way to the pool, at one place."""
    apply_async, process = BasePool.apply_async, WorkController._process_task

    def refuse(pool: BasePool, target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        if str(options.get("correlation_id")).startswith("lost"):
            if where == "pickled":
                args = (*args, threading.Lock())
            elif where == "pool":
                raise RuntimeError("the pool takes nothing")
            elif where == "silent":
                target = _run_and_leave(target)
        result = apply_async(pool, target, args, kwargs, **options)
        if where == "sent" and str(options.get("correlation_id")).startswith("lost"):
            pool._pool.outbound_buffer.remove(result)
        return result

    def drop(worker: WorkController, request: Any) -> None:
        if where == "reserved" and request.id.startswith("lost"):
            raise ValueError("an error between reserving and the pool")
        process(worker, request)

    def survive(worker: WorkController, request: Any) -> None:
        try:
            drop(worker, request)
        except ValueError:
            worker._quick_release() if worker.semaphore is not None else None

    BasePool.apply_async, WorkController._process_task = refuse, survive


if "ENDS_LOSES" in os.environ:
    _lose_messages(os.environ["ENDS_LOSES"])


def _stop_in(name: str) -> None:
    """Have a receiver of this signal raise what stops a worker, at each message of the task ``fails_once``."""

    def stop(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "name", "") == "fails_once":
            raise WorkerShutdown(0)

    getattr(signals, name).connect(stop, weak=False)


if "ENDS_STOPS_IN" in os.environ:
    _stop_in(os.environ["ENDS_STOPS_IN"])

if "ORCHESTRATOR_BROKER_URL" in os.environ:
    app = make(bare="ENDS_BARE" in os.environ)
    for _name in ("task_failure", "task_revoked", "task_unknown", "task_internal_error"):
        getattr(signals, _name).connect(_noting(_name), weak=False)
