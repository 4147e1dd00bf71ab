"""Celery's ``Task.replace``: what takes over a delivery's id takes over its supervision, and so its waiter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from celery.canvas import Signature, chord, group
from celery.canvas import _chain as chain

from orchestrator.core.supervision import HEADER
from orchestrator.worker.execution import supervision_of


def inherited(task: Any, on_replace: Callable[[Signature], Any]) -> Callable[[Signature], Any]:
    """``on_replace``, Celery's hook that sends the replacement, with the supervision of what it replaces.

    In eager mode the replacement runs inside the attempt that asks for it, which is supervised as it is.
    """

    def send(replacement: Signature) -> Any:
        request = task.request
        supervision = None if request.is_eager else supervision_of(request)
        if supervision is not None:
            # The idempotency key is this delivery's: under it, the replacement would count as accepted before.
            wire = replace(supervision, failures=(), once=None).to_wire()
            for heir in _with_id(replacement, request.id):
                heir.set(headers={**(heir.options.get("headers") or {}), HEADER: wire})
        return on_replace(replacement)

    return send


def _with_id(signature: Any, task_id: str) -> Iterator[Signature]:
    """The task that has taken over the id; of a chain or chord it is the last one, or one before what followed."""
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
