"""One attempt, where the pool runs it: decode, call the handler, and on an error decide whether there is another."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry
from pydantic_core import to_jsonable_python

from orchestrator.agents import results
from orchestrator.agents.again import Again
from orchestrator.agents.limits import within
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policy import error_names
from orchestrator.core.supervision import HEADER, Failure, Pause, Supervision
from orchestrator.telemetry import tracing

#: Of a traceback, the last so many characters are kept.
TRACEBACK_LIMIT = 8000

#: Of an error's text, the first so many.
MESSAGE_LIMIT = 2000

#: Where a request keeps its supervision once it has been read.
KEPT: Final = "_orchestrator_supervision"

#: Where it keeps what the handler has raised, if that has been called already (see quick.py).
FAILED: Final = "_orchestrator_failed"


def supervision_of(request: Any) -> Supervision | None:
    """How the message behind a Celery request is supervised; ``None`` if it is a plain Celery send.

    Raises:
        InvalidPolicy: its header is not what a supervised send writes.
    """
    wire = getattr(request, HEADER, None)
    if wire is None:
        headers = getattr(request, "headers", None)
        wire = headers.get(HEADER) if isinstance(headers, Mapping) else None
    if wire is None:
        return None
    # The handler's context asks again.
    kept = vars(request).get(KEPT)
    if kept is not None and kept[0] is wire:
        known: Supervision = kept[1]
        return known
    known = Supervision.from_wire(wire)
    vars(request)[KEPT] = wire, known
    return known


def failure_of(error: BaseException, attempt: int, by: str) -> Failure:
    """A failed attempt, for the record."""
    text = "".join(traceback.format_exception(error))
    return Failure(
        attempt=attempt,
        type=type(error).__name__,
        message=_text_of(error)[:MESSAGE_LIMIT],
        traceback=text[-TRACEBACK_LIMIT:],
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        by=by,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error.reason if isinstance(error, Reject) else error)
    except Exception:  # noqa: BLE001
        # A broken __str__ must not cost the message its outcome.
        return f"<{type(error).__name__} without text>"


def as_json(result: Any) -> Any:
    """A result as JSON data. The work is done, so whatever it cannot be is shown, not raised."""
    try:
        return to_jsonable_python(result, serialize_unknown=True)
    except (ValueError, TypeError, RecursionError):
        return f"{result!r:.1000}"


def run_attempt(
    name: str,
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    request: Any,
    supervision: Supervision | None,
) -> Any:
    """Call a task's own function, in the time that is left for it."""
    limit_s = None if supervision is None else supervision.limit_s(time.time())
    if limit_s is None and not tracing.is_on():
        return run(*args, **kwargs)
    with tracing.span(
        f"handle {name}",
        "CONSUMER",
        tracing.carried(request),
        id=str(request.id),
        attempt=(request.retries or 0) + 1,
    ):
        return run(*args, **kwargs) if limit_s is None else within(limit_s, name, run, args, kwargs)


def supervised(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, with its errors turned into another attempt while the policy allows one.

    Plain Celery sends have none; their errors pass.
    """

    @functools.wraps(run)
    def attempt(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        supervision = supervision_of(request)
        failed = vars(request).pop(FAILED, None)
        try:
            if failed is not None:
                raise failed
            result = run_attempt(task.name, run, args, kwargs, request, supervision)
        except (CeleryRetry, Ignore, Reject):
            raise
        except Exception as error:
            number = (request.retries or 0) + 1
            failure = failure_of(error, number, str(request.hostname))
            pause = Pause(None, final=supervision is not None)
            if supervision is not None and not isinstance(error, InvalidPolicy):
                pause = supervision.pause_s(number, error_names(error), time.time())
            pause_s, failure = pause.s, replace(failure, out_of_time=pause.out_of_time, final=pause.final)
            if pause_s is None:
                if supervision is not None or not (request.is_eager or request.called_directly):
                    # Of the error itself, the worker sees only what pickle lets through.
                    results.keep(request.id, failure.to_wire())
                raise
            text = f"attempt {number} failed: {failure.type}: {failure.message}"
            raise Again(text, exc=error, when=pause_s, failure=failure.to_wire()) from error
        if supervision is not None and supervision.track:
            results.keep(request.id, as_json(result))
        return result

    return attempt
