"""Tasks that cannot be supervised: batches with a Strategy of their own (as celery-batches has it), and others.

``app`` has an Orchestrator unless ``BARE`` is set; then it has the transport alone.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from celery import Celery, Task
from celery.app import trace
from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import consumer
from celery.worker.request import create_request_cls
from kombu import Queue
from kombu.common import Broadcast
from kombu.utils.imports import symbol_by_name

from orchestrator import Agent, Message, Orchestrator, handles, load_settings

FLUSH_EVERY = 3
FLUSH_S = 0.3


class Simple:
    """What a batch is told of a message; pickled for prefork."""

    def __init__(self, request: Any) -> None:
        self.id = request.id
        self.args = request._payload[0]


def apply_batch(task: Any, args: Any) -> Any:
    return task.run(*args)


class Batches(Task):
    """Collects messages and hands them to the pool together."""

    abstract = True

    def __init__(self) -> None:
        self._buffer: list[Any] = []
        self._timer: Any = None

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:  # noqa: N802
        pool = consumer.pool
        request_class = create_request_cls(
            symbol_by_name(task.Request), task, pool, consumer.hostname, consumer.event_dispatcher, app=app
        )

        def flush() -> None:
            requests, self._buffer = self._buffer[:FLUSH_EVERY], self._buffer[FLUSH_EVERY:]
            if not requests:
                return

            def on_return(result: Any) -> None:
                for request in requests:
                    request.acknowledge()

            pool.apply_async(apply_batch, (self, ([Simple(request) for request in requests],)), callback=on_return)

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
            request = request_class(
                message,
                on_ack=ack,
                on_reject=reject,
                app=app,
                hostname=consumer.hostname,
                eventer=consumer.event_dispatcher,
                task=task,
                body=message.body,
                headers=message.headers,
                connection_errors=consumer.connection_errors,
            )
            self._buffer.append(request)
            if self._timer is None:
                self._timer = consumer.timer.call_repeatedly(FLUSH_S, flush)
            if len(self._buffer) >= FLUSH_EVERY:
                flush()

        return handle


class OddPool(BasePool):
    """A pool of the user's own."""

    def on_apply(self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any, **_: Any) -> None:
        if accept_callback is not None:
            accept_callback(os.getpid(), 0.0)
        callback((0, None, 0.0))

    def on_stop(self) -> None:
        """Nothing runs."""


def _record() -> redis.Redis:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"])


def collect(requests: list[Simple]) -> None:
    names = [request.args[0] for request in requests]
    _record().rpush("test:batches", " ".join(names))
    if any(name.startswith("die") for name in names):
        os.kill(os.getpid(), signal.SIGKILL)
    if any(name.startswith("fail") for name in names):
        raise ValueError("the batch")
    if any(name.startswith("stop") for name in names):
        raise WorkerShutdown(0)


async def sleeps(name: str) -> str:
    return name


def yields(name: str) -> Any:
    yield name


def plain(name: str) -> str:
    _record().rpush("test:plain", name)
    return name


class Ask(Message):
    name: str


class Asked(Agent):
    name = "asked"

    @handles(Ask)
    def ask(self, message: Ask) -> str:
        return message.name


def make(url: str | None = None, *, bare: bool = False, eager: bool = False) -> Celery:
    celery = Celery("batches", broker=url, set_as_current=False)
    celery.conf.update(task_ignore_result=True, task_acks_late=True, task_always_eager=eager)
    celery.conf.task_queues = [Queue("celery"), Broadcast("everybody")]
    if bare:
        celery.conf.broker_transport = "orchestrator.transport:Transport"
    else:
        Orchestrator(celery, load_settings()).host(Asked)
    celery.task(collect, name="plain.collect", base=Batches, shared=False)
    for function in (sleeps, yields, plain):
        celery.task(function, name=f"plain.{function.__name__}", shared=False)
    return celery


def _run_in_thread(name: str, task: Task, *_: Any, **__: Any) -> Any:
    """A tracer as celery-aio-pool's: the task runs in a thread of its own, where it has no request."""

    def trace_task(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        with ThreadPoolExecutor(1) as executor:
            value = executor.submit(task, *args, **kwargs).result()
        return trace.trace_ok_t(value, None, 0.0, repr(value))

    return trace_task


if os.environ.get("FOREIGN_TRACER"):
    trace.build_tracer = consumer.build_tracer = _run_in_thread

app = make(os.environ.get("ORCHESTRATOR_BROKER_URL"), bare=bool(os.environ.get("BARE")))
