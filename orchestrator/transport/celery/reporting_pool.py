"""Wraps a worker's pool so that each error in a task or in a callback settles the message.

Pools ignore or only log what their callbacks raise. Pools without processes (solo, threads, gevent, eventlet) also
ignore an error that escapes Celery's tracer: the message would stay claimed, and count against the prefetch limit, for
as long as the worker lives.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol

from billiard.einfo import ExceptionInfo
from celery.exceptions import WorkerShutdown, WorkerTerminate

from orchestrator.core.errors import HandlerFailed
from orchestrator.transport.liveness.worker_state import WORKER_STATE

_REPORTS: Final = ("callback", "error_callback", "timeout_callback")

#: Stands for the runtime if the tracer raised: the result backend does not know how the task ended.
ESCAPED: Final = -1.0

#: The hard time limit of the task that runs in this greenlet.
_limit_s: ContextVar[float | None] = ContextVar("orchestrator_pool_limit_s", default=None)


def is_exit(error: BaseException) -> bool:
    """Whether an error ends the process, thread or greenlet in which it was raised, and so is no failure of a task.

    Celery stops a worker by ``WorkerShutdown`` and ``WorkerTerminate``. Only the handler of a second signal raises one
    into a task: in a solo pool, and when the worker is stopping. Any other is the task's own, and stops no worker.
    """
    if isinstance(error, WorkerShutdown | WorkerTerminate):
        return WORKER_STATE.is_stopping() and threading.current_thread() is threading.main_thread()
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return True
    greenlet = sys.modules.get("greenlet")
    if greenlet is not None and isinstance(error, greenlet.GreenletExit):
        return True
    limit_s, gevent = _limit_s.get(), sys.modules.get("gevent.timeout")
    # Celery's pool catches its own Timeout. If a Timeout of the task's escapes, the task has failed.
    return (
        limit_s is not None
        and gevent is not None
        and isinstance(error, gevent.Timeout)
        and getattr(error, "seconds", None) == limit_s
    )


def _limited(limit_s: float, target: Callable[..., Any], *args: Any) -> Any:
    before = _limit_s.set(limit_s)
    try:
        return target(*args)
    finally:
        _limit_s.reset(before)


class Reporting(Protocol):
    """The part of a request that the pool uses."""

    #: Number of callbacks that are running.
    settling: int

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """Errors that are raised again, because Celery's event loop handles them."""

    def settling_failed(self, error: Exception) -> None:
        """Settle the message although its callback failed, and log the error."""

    def start_failed(self, error: Exception) -> None:
        """Log why the start was not recorded; the task runs all the same."""

    def watch(self, pool: Any, result: Any) -> None:
        """Receive the pool's handle of the run."""


def _report(request: Reporting, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    request.settling += 1
    try:
        return callback(*args, **kwargs)
    except Exception as error:
        request.settling_failed(error)
        if isinstance(error, request.connection_errors):
            raise
        return None
    finally:
        request.settling -= 1


def _start(request: Reporting, callback: Callable[..., Any], *args: Any) -> Any:
    try:
        return callback(*args)
    except Exception as error:  # noqa: BLE001
        # If it were raised, the task would not run.
        return request.start_failed(error)


def traced(trace: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of Celery's trace function; a failure if an error escapes it."""
    try:
        return trace(*args, **kwargs)
    except BaseException as error:
        if is_exit(error):
            raise
        return 1, failure_info(error), ESCAPED


def failure_info(error: BaseException) -> ExceptionInfo:
    """The error that is being handled, for Celery's callbacks, which would raise a ``SystemExit`` again."""
    if not isinstance(error, SystemExit):
        return ExceptionInfo()
    try:
        raise HandlerFailed(f"{type(error).__name__}: {error}") from error
    except HandlerFailed:
        return ExceptionInfo()


class ReportingPool:
    """The pool, as one message's request uses it."""

    def __init__(self, pool: Any, request: Reporting) -> None:
        self._pool = pool
        self._request = request

    def apply_async(self, trace: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any) -> Any:
        """Submit one of Celery's trace functions; as the pool's ``apply_async``."""
        return self.submit(traced, (trace, *args), **options)

    def submit(self, target: Callable[..., Any], args: tuple[Any, ...], **options: Any) -> Any:
        """Submit a function that raises no error; as the pool's ``apply_async``."""
        for name in _REPORTS:
            if options.get(name) is not None:
                options[name] = partial(_report, self._request, options[name])
        if options.get("accept_callback") is not None:
            options["accept_callback"] = partial(_start, self._request, options["accept_callback"])
        limit_s = options.get("timeout") or getattr(self._pool, "timeout", None)
        if limit_s and type(self._pool).__module__ == "celery.concurrency.gevent":
            target, args = _limited, (limit_s, target, *args)
        try:
            result = self._pool.apply_async(target, args=args, **options)
        except Exception:
            withdraw(self._pool, options.get("correlation_id"))
            raise
        self._request.watch(self._pool, result)
        return result


def is_done(pool: Any, result: Any) -> Callable[[], bool] | None:
    """Returns a function that tells whether a run's code has ended; ``None`` for an unknown kind of pool."""
    match type(pool).__module__:
        case "celery.concurrency.solo":
            # The submission returns when the code has ended.
            return lambda: True
        case "celery.concurrency.thread":
            future = result.f
            return lambda: bool(future.done())
        case "celery.concurrency.prefork":
            return lambda: bool(result.ready()) or _never_begins(pool, result)
        case "celery.concurrency.gevent":
            return lambda: bool(result.ready())
        case "celery.concurrency.eventlet":
            return lambda: bool(result.dead)
    return None


def withdraw(pool: Any, delivery_id: Any) -> None:
    """Remove a message that a prefork pool did not take; otherwise the pool waits for it when the worker stops."""
    if type(pool).__module__ != "celery.concurrency.prefork":
        return
    for job in list(pool._pool._cache.values()):
        if getattr(job, "correlation_id", None) == delivery_id and not job.ready() and not _is_sent(job):
            job.discard()


def _is_sent(job: Any) -> bool:
    return bool(job._accepted or job._write_to or job._scheduled_for)


def _never_begins(pool: Any, job: Any) -> bool:
    """Whether a prefork pool has not sent the message to a process and will not."""
    waiting = getattr(pool._pool, "outbound_buffer", None)
    if waiting is None or _is_sent(job):
        return False
    try:
        return job not in waiting
    except RuntimeError:
        # The event loop changed the queue during the search; the next call searches again.
        return False
