"""Bringing a handler's result, or its failure, to where it is settled. Celery's pools bring back only a repr."""

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
from orchestrator.transport.celery.reporting_pool import ESCAPED, is_exit


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned; the result as JSON data, if somebody may ask for it."""

    result: Any = None
    #: What it returned, as long as that is in the process that ran it.
    raw: Any = None
    #: The same as JSON text for the result backend, and as a log shows it; only where storing it has failed.
    stored: str = ""
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt was the last, and failed; the failure as it goes over the wire."""

    failure: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Repeated:
    """Another attempt follows, as the error says."""

    error: Retry


MaintenanceResult = Returned | Failed | Repeated

#: How this process' attempts ended, between the handler's end and the pool's answer. By delivery and thread, because
#: the next attempt of a delivery may begin in another thread before this one has been reported.
_results: dict[tuple[str, int], MaintenanceResult] = {}


def keep(delivery_id: str, kept: MaintenanceResult) -> None:
    """Remember how an attempt ended until it is reported."""
    _results[delivery_id, get_ident()] = kept


def is_kept(delivery_id: str) -> bool:
    """Whether the attempt has come to an end that is remembered."""
    return (delivery_id, get_ident()) in _results


def take(delivery_id: str) -> MaintenanceResult | None:
    """What was remembered, once."""
    return _results.pop((delivery_id, get_ident()), None)


class SkipReason(Enum):
    """What may have happened in place of the handler."""

    EXPIRED = "expired"


_INSTEAD_OF_RUNNING: Final = (0, (None, SkipReason.EXPIRED), 0.0)


def _too_late(request: Mapping[str, Any]) -> bool:
    """Whether the message has expired since it was given to the pool, where it may have waited for a thread."""
    expires = request.get("expires")
    if not isinstance(expires, str):
        return False
    due: datetime = maybe_iso8601(expires)
    return due.tzinfo is not None and due < datetime.now(UTC)


def _packed(value: Any) -> bytes:
    """A failure, so packed that the pool does not unpack it: its class may exist only where the task ran."""
    try:
        return pickle.dumps(value)
    except Exception as error:  # noqa: BLE001
        return pickle.dumps(_fallback_sweeper(f"the error cannot be pickled: {error}"))


def unpacked(packed: Any) -> Any:
    """A failure as Celery knows it; if its class cannot be found here, one of ours that says so."""
    try:
        return pickle.loads(packed)  # noqa: S301
    except Exception as error:  # noqa: BLE001
        return _fallback_sweeper(f"the error cannot be unpickled here: {error}")


def _fallback_sweeper(text: str) -> ExceptionInfo:
    try:
        raise HandlerFailed(text)
    except HandlerFailed:
        return ExceptionInfo()


def _with_result(answer: Any, delivery_id: str) -> Any:
    failed, value, runtime_s = answer
    kept = take(delivery_id)
    if isinstance(kept, Repeated):
        if not failed or not isinstance(_error_in(value), Retry):
            # The result backend could not be told of the retry, and Celery's tracer takes that for the failure.
            failed, value = 1, _info_of(kept.error)
            runtime_s = 0.0
        kept = None
    elif isinstance(kept, Returned):
        kept = _unstored(kept) if runtime_s == ESCAPED else Returned(kept.result)
    if failed:
        value = _packed(value)
    return failed, (value, kept), runtime_s


def _unstored(kept: Returned) -> Returned:
    try:
        stored = dumps(kept.raw)
    except Exception:  # noqa: BLE001
        stored = ""
    return Returned(kept.result, None, stored, saferepr(kept.raw))


def _error_in(info: Any) -> Any:
    error = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _info_of(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def escaped(delivery_id: str) -> Any:
    """The answer of a pool where an error escapes Celery's tracer; called while that error is handled."""
    return _with_result((1, ExceptionInfo(), ESCAPED), delivery_id)


def _traced(trace: Callable[..., Any], name: str, uuid: str, request: Any, *args: Any, **kwargs: Any) -> Any:
    if _too_late(request):
        return _INSTEAD_OF_RUNNING
    try:
        answer = trace(name, uuid, request, *args, **kwargs)
    except BaseException as error:
        if is_exit(error):
            raise
        return escaped(uuid)
    return _with_result(answer, uuid)


def fast_trace(*args: Any, **kwargs: Any) -> Any:
    """Celery's fast trace, run by a pool; the value it returns becomes ``(value, how the attempt ended)``."""
    return _traced(celery_trace.fast_trace_task, *args, **kwargs)


def trace(*args: Any, **kwargs: Any) -> Any:
    """Celery's slow trace, likewise."""
    return _traced(celery_trace.trace_task_ret, *args, **kwargs)
