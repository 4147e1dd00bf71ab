"""Puts messages on the fast path: supervised ones in a pool that runs them in this process (solo, threads).

Most of what a no-op costs a Celery worker is the search for things that most messages do not have: receivers of
signals, events, a rate limit, callbacks, a result backend, an ``eta``. It also reads body and supervision twice. Here
each is checked once per task or by testing a list for emptiness, and the message is read once.

A message with anything uncommon takes Celery's way from the start. What the others run is in ``fast_path_request.py``.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import signals
from celery.app import trace as celery_trace
from celery.app.task import Task
from celery.backends.base import Backend
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.loaders.base import BaseLoader
from celery.worker import state
from celery.worker import strategy as celery_strategy

from orchestrator.worker.execution.attempts import has_own
from orchestrator.worker.execution.cancelled_steps import is_cancelled
from orchestrator.worker.hosting import REQUEST
from orchestrator.worker.requests.fast_path_request import FastPathRequest, TaskFastPath, emits_task_events
from orchestrator.worker.requests.message_format import common_body, common_supervision
from orchestrator.worker.requests.unmodified_celery import is_unmodified

#: Receivers of the signals that Celery sends around a success.
_RECEIVERS: Final = tuple(
    getattr(signals, name).receivers for name in ("task_received", "task_prerun", "task_success", "task_postrun")
)

#: Hooks of a task class that Celery's tracer calls around a success.
_HOOKS: Final = ("before_start", "on_success", "after_return")


class FastPath:
    """Executes those of a consumer's messages that can take the fast path."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._tasks: dict[str, TaskFastPath | None] = {}
        self._logs_received = celery_strategy.logger.isEnabledFor(logging.INFO)
        self._is_available = (
            type(consumer.pool) in (SoloPool, ThreadPool)
            and not consumer.app.conf.worker_deduplicate_successful_tasks
            and getattr(consumer.app.loader.on_task_init, "__func__", None) is BaseLoader.on_task_init
            and getattr(consumer.app.loader.on_process_cleanup, "__func__", None) is BaseLoader.on_process_cleanup
        )

    def take(self, message: Any) -> bool:
        """Have the message executed. Returns False, with nothing done, if it has to take Celery's way."""
        if not self._is_available or any(_RECEIVERS):
            return False
        headers = message.headers
        if message.eta_waited:
            return False
        name = headers.get("task")
        try:
            of_task = self._tasks[name]
        except KeyError:
            of_task = self._tasks[name] = self._open(name)
        except TypeError:
            return False
        if of_task is None or self._needs_celery(name):
            return False
        supervision = common_supervision(headers)
        if supervision is None or headers["id"] in state.revoked:
            return False
        if supervision.run is not None and is_cancelled(message, supervision):
            return False
        if of_task.stores_results and headers.get("ignore_result", of_task.task.ignore_result) is not True:
            return False
        body = common_body(message)
        if body is None:
            return False
        request = FastPathRequest(message, of_task, body, supervision)
        if self._logs_received:
            fields = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": None,
            }
            celery_strategy.logger.info(celery_trace.LOG_RECEIVED, fields, extra={"data": fields})
        state.task_reserved(request)
        self._consumer.on_task_request(request)
        return True

    def _open(self, name: Any) -> TaskFastPath | None:
        """The fast path of a task; ``None`` if the task, or what it is run by, is uncommon."""
        consumer = self._consumer
        task = consumer.app.tasks.get(name) if name in consumer.strategies else None
        is_common = (
            task is not None
            and task.Request == REQUEST
            and task.Strategy == Task.Strategy
            and task.acks_late
            and is_unmodified(task, consumer.strategies[name])
            and not any(has_own(type(task), hook) for hook in _HOOKS)
            and type(task.backend).process_cleanup is Backend.process_cleanup
        )
        return TaskFastPath(consumer, task) if is_common else None

    def _needs_celery(self, name: str) -> Any:
        """Whether Celery has more to do for messages of this task at the moment."""
        consumer = self._consumer
        return (
            emits_task_events(consumer.event_dispatcher)
            or consumer.on_task_message
            or (not consumer.disable_rate_limits and consumer.task_buckets[name])
            or (not consumer._maximum_prefetch_restored and consumer.restart_count > 0)
        )
