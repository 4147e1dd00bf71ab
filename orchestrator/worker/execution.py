"""One attempt, where the pool runs it: decode, call the handler, and on an error decide whether there is another."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry
from pydantic_core import to_jsonable_python

from orchestrator.core.errors import HandlerFailed, HandlerNotRun, InvalidPolicy, InvalidResult
from orchestrator.core.masking import mask
from orchestrator.core.policy import error_names
from orchestrator.core.supervision import HEADER, Failure, Pause, Supervision
from orchestrator.telemetry import tracing
from orchestrator.transport.celery.own_fields import FENCE, HANDLER_ERROR, KEPT, own_field
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.worker import results
from orchestrator.worker.retry_scheduled import RetryScheduled
from orchestrator.worker.time_limits import within

#: Of a traceback, the last so many characters are kept.
TRACEBACK_LIMIT = 8000

#: Of an error's text, the first so many.
MESSAGE_LIMIT = 2000

#: Errors that another attempt would only repeat, or that come after the handler has run.
_NEVER_REPEATED: Final = (InvalidPolicy, HandlerNotRun, InvalidResult)


#: JSON has no words for NaN and infinities.
_strict_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def supervision_of(request: Any) -> Supervision | None:
    """How the message behind a Celery request is supervised; ``None`` if it is a plain Celery send.

    Raises:
        InvalidPolicy: its header is not what a supervised send writes.
    """
    wire = own_field(request, HEADER)
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


def failure_of(error: BaseException, attempt: int, by: str, hidden: Iterable[str], stack: str | None = None) -> Failure:
    """A failed attempt, for the record; ``stack`` is its traceback where the error brings none.

    The values of the ``hidden`` fields are masked in both texts, before these are cut: a cut must not part a name from
    its value.
    """
    names = tuple(dict.fromkeys(hidden))
    if stack is None:
        stack = "".join(traceback.format_exception(error))
    message, stack = mask([_text_of(error), stack], names)
    return Failure(
        attempt=attempt,
        type=type(error).__name__,
        message=message[:MESSAGE_LIMIT],
        traceback=stack[-TRACEBACK_LIMIT:],
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        by=by,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error.reason if isinstance(error, Reject) else error)
    except Exception:  # noqa: BLE001
        # A broken __str__ must not cost the message its outcome.
        return f"<{type(error).__name__} without text>"


def as_json(task: str, result: Any) -> Any:
    """A result as JSON data.

    Raises:
        InvalidResult: it is not.
    """
    try:
        data = to_jsonable_python(result)
        # What stays as it is in Python may be no JSON text: NaN, half of a surrogate pair, an endless number.
        if data is not None and data is not True and data is not False:
            (data if type(data) is str else _strict_json(data)).encode()
        return data
    except Exception as error:
        # Models and iterators may raise anything.
        raise InvalidResult(task, type(result).__name__, f"{error}"[:MESSAGE_LIMIT]) from error


def check_ran(task: str, result: Any) -> None:
    """Refuse a result that is the handler's code, not yet begun. Only a pool that knows of it would run it.

    Raises:
        HandlerNotRun: it is.
    """
    if inspect.iscoroutine(result):
        # Python would warn of one that nobody has waited for.
        result.close()
    elif not inspect.isasyncgen(result) and not (
        inspect.isgenerator(result) and inspect.getgeneratorstate(result) == inspect.GEN_CREATED
    ):
        return
    raise HandlerNotRun(task, type(result).__name__)


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


def attempt(task: Any, request: Any, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What ``run`` returns, with its errors turned into another attempt while the policy allows one.

    Plain Celery sends have no policy; their errors pass.
    """
    supervision = supervision_of(request)
    failed = vars(request).pop(HANDLER_ERROR, None)
    # Where a worker's main process settles the message, it asks for what is kept.
    reported = getattr(request, FENCE, None) is not None
    try:
        if failed is not None:
            raise failed
        result = run_attempt(task.name, run, args, kwargs, request, supervision)
        check_ran(task.name, result)
        shown = as_json(task.name, result) if supervision is not None and supervision.track else None
    except CeleryRetry as again:
        if reported:
            results.keep(request.id, results.Repeated(again))
        raise
    except (Ignore, Reject):
        raise
    except BaseException as error:
        # A plain call that nobody reports raises what its task raised.
        if is_exit(error) or not (isinstance(error, Exception) or supervision is not None or reported):
            raise
        number = (request.retries or 0) + 1
        hidden = task.app.orchestrator.hidden_of(supervision)
        failure = failure_of(error, number, str(request.hostname), hidden)
        pause = Pause(None, final=supervision is not None)
        if supervision is not None and not isinstance(error, _NEVER_REPEATED):
            pause = supervision.pause_s(number, error_names(error), time.time())
        pause_s, failure = pause.s, replace(failure, out_of_time=pause.out_of_time, final=pause.final)
        if pause_s is None:
            if supervision is not None or reported:
                # Of the error itself, the worker sees only what pickle lets through.
                results.keep(request.id, results.Failed(failure.to_wire()))
            if isinstance(error, Exception):
                raise
            # Celery's tracer passes on what is no Exception, as if its process were to end.
            raise HandlerFailed(f"{failure.type}: {failure.message}") from error
        text = f"attempt {number} failed: {failure.type}: {failure.message}"
        repeated = RetryScheduled(text, exc=error, when=pause_s, failure=failure.to_wire())
        if reported:
            results.keep(request.id, results.Repeated(repeated))
        raise repeated from error
    if supervision is not None or reported:
        results.keep(request.id, results.Returned(shown, result))
    return result
