"""Bringing a handler's result, or its failure, to where it is settled. Celery's pools bring back only a repr."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from threading import get_ident
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from celery.app import trace as celery_trace
from celery.utils.time import maybe_iso8601

from orchestrator.core.errors import HandlerFailed


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned; the result as JSON data, if somebody may ask for it."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt was the last, and failed; the failure as it goes over the wire."""

    failure: Mapping[str, Any]


Kept = Returned | Failed

#: How this process' attempts ended, between the handler's end and the pool's answer. By delivery and thread, because
#: the next attempt of a delivery may begin in another thread before this one has been reported.
_results: dict[tuple[str, int], Kept] = {}


def keep(delivery_id: str, kept: Kept) -> None:
    """Remember how an attempt ended until it is reported."""
    _results[delivery_id, get_ident()] = kept


def is_kept(delivery_id: str) -> bool:
    """Whether the attempt has come to an end that is remembered."""
    return (delivery_id, get_ident()) in _results


def take(delivery_id: str) -> Kept | None:
    """What was remembered, once."""
    return _results.pop((delivery_id, get_ident()), None)


class Instead(Enum):
    """What may have happened in place of the handler."""

    EXPIRED = "expired"


_INSTEAD_OF_RUNNING: Final = (0, (None, Instead.EXPIRED), 0.0)


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
        return pickle.dumps(_stand_in(f"the error cannot be pickled: {error}"))


def unpacked(packed: Any) -> Any:
    """A failure as Celery knows it; if its class cannot be found here, one of ours that says so."""
    try:
        return pickle.loads(packed)  # noqa: S301
    except Exception as error:  # noqa: BLE001
        return _stand_in(f"the error cannot be unpickled here: {error}")


def _stand_in(text: str) -> ExceptionInfo:
    try:
        raise HandlerFailed(text)
    except HandlerFailed:
        return ExceptionInfo()


def _with_result(answer: Any, delivery_id: str) -> Any:
    failed, value, runtime_s = answer
    if failed:
        value = _packed(value)
    return failed, (value, take(delivery_id)), runtime_s


def fast_trace(name: str, uuid: str, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Celery's fast trace, run by a pool; the value it returns becomes ``(value, result or failure)``."""
    if _too_late(request):
        return _INSTEAD_OF_RUNNING
    return _with_result(celery_trace.fast_trace_task(name, uuid, request, *args, **kwargs), uuid)


def trace(name: str, uuid: str, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Celery's slow trace, likewise."""
    if _too_late(request):
        return _INSTEAD_OF_RUNNING
    return _with_result(celery_trace.trace_task_ret(name, uuid, request, *args, **kwargs), uuid)
