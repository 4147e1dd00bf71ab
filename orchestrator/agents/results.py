"""Bringing a handler's result to where it is settled. Celery's pools bring back only its repr."""

from __future__ import annotations

from typing import Any

from celery.app.trace import fast_trace_task, trace_task_ret

#: Results of this process' attempts between the handler's return and the pool's answer, by delivery.
_results: dict[str, Any] = {}


def keep(delivery_id: str, result: Any) -> None:
    """Remember a result until the attempt is reported."""
    _results[delivery_id] = result


def take(delivery_id: str) -> Any:
    """The remembered result, once."""
    return _results.pop(delivery_id, None)


def _with_result(answer: Any, delivery_id: str) -> Any:
    failed, value, runtime_s = answer
    result = take(delivery_id)
    return answer if failed else (failed, (value, result), runtime_s)


def fast_trace(name: str, uuid: str, *args: Any, **kwargs: Any) -> Any:
    """Celery's fast trace, run by a pool; the value it returns becomes ``(repr, result)``."""
    return _with_result(fast_trace_task(name, uuid, *args, **kwargs), uuid)


def trace(name: str, uuid: str, *args: Any, **kwargs: Any) -> Any:
    """Celery's slow trace, likewise."""
    return _with_result(trace_task_ret(name, uuid, *args, **kwargs), uuid)
