"""Errbacks as steps: the arguments with which Celery calls an errback."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.canvas import Signature
from celery.utils.functional import arity_greater

from orchestrator.core.deliveries.outcome import Dead, from_wire
from orchestrator.core.errors import SendFailed
from orchestrator.core.workflows.result_path import MARK


def errback_arguments(app: Celery, errback: Signature, failed: Mapping[str, str]) -> list[Any]:
    """References for the arguments with which Celery calls an errback; they are replaced when it begins.

    ``failed`` has, by task, the numbers of the steps whose errback it is.
    """
    parts = ("request", "error", "traceback") if _takes_error(app, errback) else ("id",)
    return [{MARK: {"failed": dict(failed), "as": part}} for part in parts]


def _takes_error(app: Celery, errback: Signature) -> bool:
    """Celery's rule: whether a task takes more than one argument, and is not bound."""
    header = getattr(app.tasks.get(errback.task), "__header__", None)
    if header is None or isinstance(header, partial):
        return False
    try:
        return bool(arity_greater(partial(header, *errback.args, **errback.kwargs), 1))
    except (TypeError, ValueError):
        return bool(arity_greater(header, 1))


def failure_part(part: str, delivery_id: str, task: str, outcome: Mapping[str, Any]) -> Any:
    """An argument of an errback: the failed delivery's id, its request, its error, or its traceback.

    The error is a :class:`SendFailed` with the outcome. The traceback is ``None``; the dead letter has it.
    """
    match part:
        case "request":
            return Context({"id": delivery_id, "task": task, "delivery_info": {}, "errbacks": []})
        case "error":
            error = from_wire(outcome)
            return SendFailed(delivery_id, error if isinstance(error, Dead) else Dead(str(outcome.get("outcome"))))
        case "traceback":
            return None
    return delivery_id
