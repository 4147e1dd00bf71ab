"""Celery's ``Task.replace``: what takes over the place of a task that is supervised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from celery.canvas import Signature, chord, group
from celery.canvas import _chain as chain
from celery.exceptions import ImproperlyConfigured

from orchestrator.agents.expand import Expand
from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.worker.execution.message_supervision import supervision_of
from orchestrator.worker.execution.replacement_failed import end_with
from orchestrator.worker.execution.step_replaced import StepReplaced


def replacing(task: Any, celerys: Callable[[Signature], Any]) -> Callable[[Signature], Any]:
    """Wrap a task's ``replace``: in a step of a workflow, the steps of the new signature take the step's place."""

    def replace_step(sig: Signature) -> Any:
        request = task.request
        supervision = None if request.called_directly else supervision_of(request)
        if supervision is None or supervision.run is None:
            return celerys(sig)
        if "chord" in sig.options:
            # As Celery says it.
            raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
        raise StepReplaced(Expand(sig, **_options_of(supervision)))

    return replace_step


def _options_of(supervision: Supervision) -> Any:
    """The options that new steps inherit."""
    return {
        "retry": supervision.retry,
        "on_error": supervision.on_error,
        "timeout_s": supervision.timeout_s,
        "metadata": dict(supervision.metadata) or None,
    }


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
            heirs = list(_with_id(replacement, request.id))
            for heir in heirs:
                heir.set(headers={**(heir.options.get("headers") or {}), HEADER: wire})
            if heirs and heirs != [replacement]:
                end_with(replacement, task, request, supervision)
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
