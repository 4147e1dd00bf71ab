"""Brings a handler's result or failure to the process that settles it. Celery's pools bring back only a repr."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from threading import get_ident
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app import trace as celery_trace
from celery.exceptions import Retry
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_iso8601
from kombu.utils.json import dumps

from orchestrator.core.errors import HandlerFailed
from orchestrator.transport.celery.reporting_pool import ESCAPED, failure_info, is_exit


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""

    #: The result as JSON data, if the delivery is tracked.
    result: Any = None
    #: The result itself; only within the process that ran the handler.
    raw: Any = None
    #: The result as JSON text for the result backend, and as a log shows it; only if storing it failed.
    stored: str = ""
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last attempt failed; ``failure`` is :meth:`Failure.to_wire`'s."""

    failure: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retried:
    """Another attempt follows; the error has its time."""

    error: Retry


AttemptEnd = Returned | Failed | Retried

#: How attempts in this process ended, until the pool has reported them. By delivery and thread, because the next
#: attempt of a delivery may begin in another thread before this one is reported.
_ends: dict[tuple[str, int], AttemptEnd] = {}


def remember(delivery_id: str, end: AttemptEnd) -> None:
    """Remember how an attempt ended until it is reported."""
    _ends[delivery_id, get_ident()] = end


def is_remembered(delivery_id: str) -> bool:
    """Whether the attempt's end is remembered and not yet reported."""
    return (delivery_id, get_ident()) in _ends


def take(delivery_id: str) -> AttemptEnd | None:
    """Remove and return the attempt's end; ``None`` if none is remembered."""
    return _ends.pop((delivery_id, get_ident()), None)


class SkipReason(Enum):
    """The reason why the handler was not called."""

    EXPIRED = "expired"


_SKIPPED_AS_EXPIRED: Final = (0, (None, SkipReason.EXPIRED), 0.0)


def _has_expired(request: Mapping[str, Any]) -> bool:
    """Whether the message has expired while it waited in the pool for a thread."""
    expires = request.get("expires")
    if not isinstance(expires, str):
        return False
    due: datetime = maybe_iso8601(expires)
    return due.tzinfo is not None and due < datetime.now(UTC)


def _packed(value: Any) -> bytes:
    """A failure, pickled so that the pool does not unpickle it: its class may exist only where the task ran."""
    try:
        return pickle.dumps(value)
    except Exception as error:  # noqa: BLE001
        return pickle.dumps(_handler_failed(f"the error cannot be pickled: {error}"))


def unpacked(packed: Any) -> Any:
    """A failure as Celery knows it; ``HandlerFailed`` if its class cannot be imported here."""
    try:
        return pickle.loads(packed)  # noqa: S301
    except Exception as error:  # noqa: BLE001
        return _handler_failed(f"the error cannot be unpickled here: {error}")


def _handler_failed(text: str) -> ExceptionInfo:
    try:
        raise HandlerFailed(text)
    except HandlerFailed:
        return ExceptionInfo()


def _with_result(answer: Any, delivery_id: str) -> Any:
    failed, value, runtime_s = answer
    end = take(delivery_id)
    if isinstance(end, Retried):
        if not failed or not isinstance(_error_in(value), Retry):
            # The result backend could not store the retry, and Celery's tracer reports that error instead.
            failed, value = 1, _info_of(end.error)
            runtime_s = 0.0
        end = None
    elif isinstance(end, Returned):
        end = _unstored(end) if runtime_s == ESCAPED else Returned(end.result)
    if failed:
        value = _packed(value)
    return failed, (value, end), runtime_s


def _unstored(end: Returned) -> Returned:
    try:
        stored = dumps(end.raw)
    except Exception:  # noqa: BLE001
        stored = ""
    return Returned(end.result, None, stored, saferepr(end.raw))


def _error_in(info: Any) -> Any:
    error = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _info_of(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def escaped(delivery_id: str, error: BaseException) -> Any:
    """The pool's answer when an error escapes Celery's tracer; called in the ``except`` block of that error."""
    return _with_result((1, failure_info(error), ESCAPED), delivery_id)


def _traced(trace: Callable[..., Any], name: str, uuid: str, request: Any, *args: Any, **kwargs: Any) -> Any:
    if _has_expired(request):
        return _SKIPPED_AS_EXPIRED
    try:
        answer = trace(name, uuid, request, *args, **kwargs)
    except BaseException as error:
        if is_exit(error):
            raise
        return escaped(uuid, error)
    return _with_result(answer, uuid)


def fast_trace(*args: Any, **kwargs: Any) -> Any:
    """Celery's fast trace, run by a pool; the value it returns becomes ``(value, how the attempt ended)``."""
    return _traced(celery_trace.fast_trace_task, *args, **kwargs)


def trace(*args: Any, **kwargs: Any) -> Any:
    """Celery's slow trace, with the same return value as :func:`fast_trace`."""
    return _traced(celery_trace.trace_task_ret, *args, **kwargs)
