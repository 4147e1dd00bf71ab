"""The end of a delivery whose task was replaced, if the replacement fails before its last task.

That last task has the delivery's id, so the delivery's outcome is the last task's. Where a header of a chord or an
earlier step of a chain fails, Celery ends the last task in its result backend, without a message. Errbacks are called
there: ours sends a message with the delivery's id that is a dead letter as soon as it is handled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from celery import Celery
from celery.canvas import Signature, chord, group
from celery.canvas import _chain as chain

from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.core.errors import ReplacementFailed

#: The errback, and the task whose message ends the delivery.
_ERRBACK: Final = "orchestrator.end_replaced"
_ENDS: Final = "orchestrator.replacement_failed"

#: How long a second message that ends the same delivery is not accepted, after its outcome.
_ONCE_MS: Final = 3_600_000

#: Characters of the error that are sent.
_LONGEST: Final = 2000


def add_tasks(app: Celery) -> None:
    """Declare both tasks."""
    late = {"acks_late": True, "reject_on_worker_lost": True}

    def end_replaced(request: Any, error: Any, traceback: Any, end: Mapping[str, Any]) -> None:
        # Only a signature has options: the last task itself has run, so its own attempts tell its outcome.
        if request.id == end["id"] and "options" not in vars(request):
            return
        sent = app.tasks[_ENDS].s(end["task"], f"{type(error).__name__}: {error}"[:_LONGEST])
        sent.apply_async(task_id=end["id"], headers={HEADER: end["supervision"]}, **end["to"])

    def replacement_failed(task: str, error: str) -> None:
        raise ReplacementFailed(task, error)

    app.task(end_replaced, name=_ERRBACK, shared=False, ignore_result=True, **late)
    app.task(replacement_failed, name=_ENDS, shared=False, ignore_result=True, **late)


def end_with(replacement: Signature, task: Any, request: Any, supervision: Supervision) -> None:
    """Have the delivery of ``request`` end if ``replacement`` fails before its last task."""
    info = request.delivery_info or {}
    # Where the replaced message came from, as Celery's own retries: some worker of this app consumes from there.
    to = {name: info.get(name) for name in ("exchange", "routing_key")}
    once = None
    if supervision.idempotency is None and not request.get("replaced_task_nesting", 0):
        # A second one is not accepted, of a worker that was killed after it had sent the first. A delivery has one key,
        # so that of its sender goes before.
        once = str(request.id), _ONCE_MS
    wire = replace(supervision, failures=(), idempotency=once).to_wire()
    end = {"id": request.id, "task": task.name, "to": to, "supervision": wire}
    _link(replacement, task.app.tasks[_ERRBACK].s(end=end))


def _link(signature: Any, errback: Signature) -> None:
    match signature:
        case chain():
            # Celery calls those of the chain if it is the body of a chord, and those of its steps if one of them fails.
            _prepend(signature, errback)
            for step in signature.tasks:
                _link(step, errback)
        case chord():
            _link(signature.body, errback)
        case group():
            # Within a chain it is the header of a chord, whose body is the next step.
            pass
        case _:
            _prepend(signature, errback)


def _prepend(signature: Signature, errback: Signature) -> None:
    # Before the sender's: Celery does not call those of a chord again if the worker dies while it calls them.
    others = signature.options.get("link_error") or []
    signature.options["link_error"] = [errback.clone(), *(others if isinstance(others, list | tuple) else [others])]
