"""Celery's ``Task.replace``: the task that takes over a delivery's id inherits its supervision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from celery.canvas import Signature, chord, group
from celery.canvas import _chain as chain

from orchestrator.core.supervision import HEADER
from orchestrator.worker.execution import supervision_of


def inherited(task: Any, on_replace: Callable[[Signature], Any]) -> Callable[[Signature], Any]:
    """Wrap ``on_replace``, Celery's hook that sends the replacement, so that the replacement is supervised as well.

    In eager mode the replacement runs within the supervised attempt that it replaces, so nothing is added.
    """

    def send(replacement: Signature) -> Any:
        request = task.request
        supervision = None if request.is_eager else supervision_of(request)
        if supervision is not None:
            # Without the idempotency key: with it, the replacement would be a duplicate of this delivery.
            wire = replace(supervision, failures=(), idempotency=None).to_wire()
            for heir in _with_id(replacement, request.id):
                heir.set(headers={**(heir.options.get("headers") or {}), HEADER: wire})
        return on_replace(replacement)

    return send


def _with_id(signature: Any, task_id: str) -> Iterator[Signature]:
    """The tasks with this id: in a chain, one of its steps; in a chord, within its body."""
    match signature:
        case chain():
            for step in signature.tasks:
                yield from _with_id(step, task_id)
        case chord():
            yield from _with_id(signature.body, task_id)
        case group():
            pass
        case _ if signature.options.get("task_id") == task_id:
            yield signature
