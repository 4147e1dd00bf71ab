"""One attempt, where the pool runs it: call the handler, and after an error decide whether another attempt follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry

from orchestrator.agents.expand import Expand
from orchestrator.core.calls.conversation import CURRENT as CONVERSATION
from orchestrator.core.calls.conversation import Conversation
from orchestrator.core.calls.conversation import within as within_conversation
from orchestrator.core.deliveries.attempt_limits import CURRENT, AttemptLimits
from orchestrator.core.deliveries.supervision import Pause, Supervision
from orchestrator.core.errors import (
    HandlerFailed,
    HandlerNotRun,
    InvalidExpansion,
    InvalidPolicy,
    InvalidResult,
    InvalidStepInput,
    Nondeterministic,
    NotSupervised,
    ReplacementFailed,
    ResultTooLarge,
    StepFailed,
    SuspensionCaught,
    TooManyCalls,
)
from orchestrator.core.policies.policy import error_names
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.telemetry import tracing
from orchestrator.transport.celery.own_fields import FENCE, HANDLER_ERROR, override_of
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.worker.execution import results
from orchestrator.worker.execution.failure_record import failure_of
from orchestrator.worker.execution.handler_result import as_json, check_ran, check_size, expanded, result_limit
from orchestrator.worker.execution.message_supervision import supervision_of
from orchestrator.worker.execution.retry_scheduled import RetryScheduled
from orchestrator.worker.execution.running_attempt import INNERMOST, RunningAttempt
from orchestrator.worker.execution.step_replaced import StepReplaced
from orchestrator.worker.execution.time_limits import within

#: Errors that another attempt would only repeat, or that are raised after the handler has run.
_NEVER_RETRIED: Final = (
    InvalidPolicy, HandlerNotRun, InvalidResult, InvalidStepInput, InvalidExpansion, ResultTooLarge, Nondeterministic,
    NotSupervised, ReplacementFailed, StepFailed, SuspensionCaught, TooManyCalls,
)  # fmt: skip


def run_attempt(
    task: Any,
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    request: Any,
    supervision: Supervision | None,
) -> Any:
    """Call a task's own function, within the time that is left for it; it may return steps that take its place."""
    wire = None if supervision is None else supervision.conversation
    if wire is None and CONVERSATION.get() is None:
        if (
            supervision is not None
            and supervision.timeout_s is None
            and supervision.deadline_at_s is None
            and override_of(request) is None
            and CURRENT.get() is None
        ):
            return _call(task, run, args, kwargs, request, supervision, None)
        return _limited(task, run, args, kwargs, request, supervision)
    with within_conversation(Conversation.from_wire(wire)):
        return _limited(task, run, args, kwargs, request, supervision)


def _limited(
    task: Any,
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    request: Any,
    supervision: Supervision | None,
) -> Any:
    limit_s = None if supervision is None else supervision.limit_s(time.time(), override_of(request))
    if limit_s is None or supervision is None:
        # In eager mode, the attempt that has sent this message runs around it.
        if CURRENT.get() is None:
            return _call(task, run, args, kwargs, request, supervision, None)
        limits = None
    else:
        limits = AttemptLimits(time.monotonic() + limit_s, supervision.binding_deadline_at_s)
    token = CURRENT.set(limits)
    try:
        return _call(task, run, args, kwargs, request, supervision, limit_s)
    finally:
        CURRENT.reset(token)


def _call(
    task: Any,
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    request: Any,
    supervision: Supervision | None,
    limit_s: float | None,
) -> Any:
    outer = INNERMOST.get()
    running = RunningAttempt(task, request, supervision, outer)
    INNERMOST.set(running)
    try:
        if limit_s is None and not tracing.is_on():
            return run(*args, **kwargs)
        with tracing.span(
            f"handle {task.name}",
            "CONSUMER",
            tracing.carried(request),
            id=str(request.id),
            attempt=(request.retries or 0) + 1,
        ):
            return run(*args, **kwargs) if limit_s is None else within(limit_s, task.name, run, args, kwargs)
    except StepReplaced as replaced:
        return replaced.steps
    finally:
        # Also where user code has left a session open.
        INNERMOST.set(outer)
        running.end()


def attempt(task: Any, request: Any, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call ``run`` and return its result. An error becomes ``RetryScheduled`` while the policy allows another attempt.

    Plain Celery sends have no policy, so their errors are raised as they are.
    """
    supervision = supervision_of(request)
    failed = vars(request).pop(HANDLER_ERROR, None)
    # A worker's main process settles the message by the end that is remembered here.
    reported = getattr(request, FENCE, None) is not None
    try:
        if failed is not None:
            raise failed
        if supervision is not None and supervision.run is not None:
            args, kwargs = task.app.orchestrator.runtime.steps.fill_arguments(supervision.run, args, kwargs)
        result = run_attempt(task, run, args, kwargs, request, supervision)
        check_ran(task.name, result)
        if type(result) is Expand:
            data, result = expanded(task.app, task.name, supervision, result), None
        elif type(result) is Suspended:
            data, result = result, None
        else:
            data = as_json(task.name, result) if supervision is not None and supervision.track else None
            if supervision is not None and (supervision.run is not None or supervision.ask):
                check_size(data, result_limit(supervision, task.app.orchestrator.settings.result_limit_bytes))
    except CeleryRetry as retry:
        if reported:
            results.remember(request.id, results.Retried(retry))
        raise
    except (Ignore, Reject):
        raise
    except BaseException as error:
        # A plain call outside of a worker raises what its task raised.
        if is_exit(error) or not (isinstance(error, Exception) or supervision is not None or reported):
            raise
        number = (request.retries or 0) + 1
        hidden = task.app.orchestrator.runtime.hidden.names_for(supervision)
        failure = failure_of(error, number, str(request.hostname), hidden)
        pause = Pause(None, final=supervision is not None)
        if supervision is not None and not isinstance(error, _NEVER_RETRIED):
            pause = supervision.pause_s(number, error_names(error), time.time())
        pause_s, failure = pause.s, replace(failure, out_of_time=pause.out_of_time, final=pause.final)
        if pause_s is None:
            if supervision is not None or reported:
                # The worker's main process sees only as much of the error as can be pickled.
                results.remember(request.id, results.Failed(failure.to_wire()))
            if isinstance(error, Exception):
                raise
            # Celery's tracer lets other errors than Exception through, as if its process were to end.
            raise HandlerFailed(f"{failure.type}: {failure.message}") from error
        text = f"attempt {number} failed: {failure.type}: {failure.message}"
        scheduled = RetryScheduled(text, exc=error, when=pause_s, failure=failure.to_wire())
        if reported:
            results.remember(request.id, results.Retried(scheduled))
        raise scheduled from error
    if supervision is not None or reported:
        results.remember(request.id, results.Returned(data, result))
    return result
