"""Celery's callbacks for one message, in the worker's main process: they decide how its attempt is settled."""

from __future__ import annotations

import time
import weakref
from dataclasses import replace
from traceback import format_exception
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.exceptions import Retry as CeleryRetry
from celery.worker.state import revoked, task_ready
from kombu.exceptions import ContentDisallowed, DecodeError

from orchestrator.celery_types import Message, Pool
from orchestrator.core.deliveries.outcome import Cancelled, Expired, Handled
from orchestrator.core.deliveries.supervision import HEADER, Failure, Pause, Supervision
from orchestrator.core.errors import InvalidResult, NotSupervised
from orchestrator.core.log import get_logger
from orchestrator.core.policies.policy import error_names
from orchestrator.core.secrets.masking import mask
from orchestrator.sending.messages.shown_arguments import masked_args, masked_kwargs, masked_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.own_fields import FENCE, INCARNATION, OVERRIDE
from orchestrator.transport.celery.reporting_pool import ESCAPED
from orchestrator.transport.celery.tracked_request import TrackedRequest, is_unsent_retry, name_and_text
from orchestrator.transport.endings.stream import FAILURE, SUCCESS
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.worker.execution import results
from orchestrator.worker.execution.cancelled_steps import BY_RUN, is_cancelled
from orchestrator.worker.execution.fencing_token import fence_at
from orchestrator.worker.execution.handler_result import as_json
from orchestrator.worker.execution.retry_scheduled import RetryScheduled
from orchestrator.worker.execution.time_limits import pool_limits
from orchestrator.worker.requests.message_format import check_body, check_headers
from orchestrator.worker.requests.settling_request import SettlingRequest

logger = get_logger(__name__)

#: The text of the ``Ignore`` that ``Task.replace`` raises when another task has taken over this delivery, id and all.
_REPLACED = "Replaced by new task"

_FOREIGN_TRACER = "{} did not run as an attempt, so its result is not known; allowed: Celery's own tracer"


class SupervisedRequest(SettlingRequest):
    """A Celery request that ends in exactly one recorded outcome.

    The message is settled first. Celery's own book-keeping follows and finds the message acknowledged.
    """

    #: Whether another attempt follows a hard time limit, or the message was requeued after it.
    _continues = False

    #: Whether an error escaped Celery's tracer, so that the result backend does not know of the failure.
    _escaped = False

    #: Why it is cancelled before it begins, if this worker knows.
    _cancelled_by = ""

    #: Whether the delivery ended as dead because its last attempt failed.
    _gave_up = False

    def __init__(self, message: Message, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            check_body(self._payload)
            self.supervision = check_headers(self._request_dict) or self._default_supervision()
        except (InvalidTaskError, ContentDisallowed, DecodeError):
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidTaskError(f"{type(error).__name__}: {error}") from error
        self._request_dict[FENCE] = fence_at(str(message.delivery_tag))
        if self._request_dict.get("retries") is None:
            self._request_dict["retries"] = 0
        if self._request_dict.get("timelimit") is None:
            self._request_dict["timelimit"] = [None, None]

    def _default_supervision(self) -> Supervision | None:
        """Supervision of an agent's message that was sent without this library, and so has none in its headers."""
        default = getattr(self.task, "__default_supervision__", None)
        if default is None or channel_of(self._message) is None:
            # No agent's message, or its broker could not settle it.
            return None
        supervision: Supervision = default()
        self._request_dict[HEADER] = supervision.to_wire()
        return supervision

    def submit(self, pool: Pool, **kwargs: Any) -> Any:
        """As Celery's, with a trace function that also brings the result back."""
        if is_cancelled(self._message, self.supervision):
            self._cancelled_by = BY_RUN
            revoked.add(self.id)
        if self.revoked():
            raise TaskRevokedError(self.id)
        guarded = self.hand_to(pool)
        channel = channel_of(self._message)
        if channel is not None:
            # The pool's processes hold no lease, so they do not know the incarnation that they run for.
            self._request_dict[INCARNATION] = channel.incarnation
            self.override_timeout(channel)
        hard_s, soft_s = self._limits(pool)
        result = guarded.submit(
            results.fast_trace if self._app.use_fast_trace_task else results.trace,
            (self._type, self.id, self._request_dict, self._body, self._content_type, self._content_encoding),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=soft_s,
            timeout=hard_s,
            correlation_id=self.id,
        )
        self._apply_result = None if result is None else weakref.ref(result)
        return result

    def _limits(self, pool: Pool) -> tuple[float | None, float | None]:
        """Celery's hard and soft limit of this attempt, in seconds."""
        hard_s, soft_s = self.time_limits
        hard_s, soft_s = hard_s or self.task.time_limit, soft_s or self.task.soft_time_limit
        override_s = self._request_dict.get(OVERRIDE)
        limit_s = None if self.supervision is None else self.supervision.limit_s(time.time(), override_s)
        return pool_limits(pool, hard_s, soft_s, limit_s, self._app.orchestrator.settings.kill_after_s)

    def info(self, safe: bool = False) -> Any:
        """As Celery's, which ``inspect`` shows, with the values of hidden fields masked."""
        info = super().info(safe)
        if safe:
            return {**info, "args": self.argsrepr, "kwargs": self.kwargsrepr}
        hidden = self.hidden()
        args, kwargs = masked_args(self._task, info["args"], hidden), masked_kwargs(info["kwargs"], hidden)
        return {**info, "args": args, "kwargs": kwargs}

    @property
    def argsrepr(self) -> str:
        """The positional arguments as logs and events show them. A sender without this library masks nothing."""
        return masked_text(str(self._argsrepr or ""), self.hidden())

    @property
    def kwargsrepr(self) -> str:
        """The keyword arguments as logs and events show them."""
        return masked_text(str(self._kwargsrepr or ""), self.hidden())

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """The handler returned, or raised the error in the first element."""
        if isinstance(failed__retval__runtime, ExceptionInfo):
            # A handler raised SystemExit where the pool is not a process of its own.
            return self.on_failure(failed__retval__runtime)
        failed, (value, attempt_end), runtime_s = failed__retval__runtime
        if attempt_end is results.SkipReason.EXPIRED:
            return self._announce_revoked("expired", False, None, True)
        self.attempt_end = attempt_end
        if failed:
            value = results.unpacked(value)
            if runtime_s == ESCAPED and isinstance(attempt_end, results.Returned):
                return self._on_result_not_stored(attempt_end, value)
            if runtime_s == ESCAPED and isinstance(attempt_end, results.Failed):
                # The error that escaped came after the handler's own.
                failure = attempt_end.failure
                self._end_later(FAILURE, str(failure.get("type", "")), str(failure.get("message", "")))
                runtime_s = None
            elif runtime_s == ESCAPED:
                self._escaped, runtime_s = True, None
        elif self.is_open() and attempt_end is None and self.supervision is not None and not self._deduplicates():
            self.settle_dead(self.failure_from(NotSupervised(_FOREIGN_TRACER.format(self.name)), ""))
        elif self.is_open():
            self._returned = True
            self.settle_handled(attempt_end.result if isinstance(attempt_end, results.Returned) else None, runtime_s)
            self.emit_resolved()
        return super().on_success((failed, value, runtime_s), **kwargs)

    def _deduplicates(self) -> bool:
        """Whether Celery skips the handler of a message whose success is stored already."""
        return bool(self._app.conf.worker_deduplicate_successful_tasks)

    def _on_result_not_stored(self, attempt_end: results.Returned, info: Any) -> Any:
        """The handler returned, but neither its result nor a failure could be stored: a worker stores it later."""
        name, text = name_and_text(info)
        masked = mask(text, self.hidden())
        known = self.supervision or Supervision(message=self.name)
        logger.error("%s[%s] returned; its result is stored later: %s: %s", self.name, self.id, name, masked)
        emit(events.RESULT_WAITS, agent=known.agent, message=known.message, id=self.id, error=f"{name}: {masked}")
        if self.is_open():
            self._returned = True
            if not self._ignore_result or (self._payload[2] or {}).get("chord"):
                ending = (SUCCESS, "", attempt_end.stored) if attempt_end.stored else (FAILURE, name, text)
                self._end_later(*ending)
            self.settle_handled(attempt_end.result, None)
            self.emit_resolved()
        return TrackedRequest.on_success(self, (0, attempt_end.shown, None))

    def on_retry(self, exc_info: Any) -> Any:
        """The attempt failed and another one follows."""
        error = _unwrapped(exc_info)
        if isinstance(error, RetryScheduled) and self.is_open():
            # `expires` bounds the wait for the first attempt, which is over.
            self._expires = None
            if self.revoked():
                # Cancelled while it ran in a pool that cannot interrupt it.
                return None
            self.settle_retried(error.last_failure(), float(error.when or 0))
        return super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The attempt failed for good, or its process is gone."""
        error = _unwrapped(exc_info)
        if is_unsent_retry(error, exc_info):
            error.requeue = True
        # A lost process requeues the message, unless the user's setting forbids it; Celery handles the others.
        elsewhere = (
            isinstance(error, CeleryRetry | Ignore | Terminated)
            or (isinstance(error, WorkerLostError) and self.task.reject_on_worker_lost)
            or (isinstance(error, Reject) and error.requeue)
        )
        if not elsewhere and not isinstance(error, SystemExit | KeyboardInterrupt) and self.is_open():
            if not self._settle_failed(error, exc_info.traceback):
                return None
        elif isinstance(error, Ignore) and self.is_open() and str(error) != _REPLACED:
            self.settle_handled(None, None)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _settle_failed(self, error: Any, traceback: Any) -> bool:
        """Settle a failed attempt: requeued, retried or dead. Returns whether Celery is to handle the failure too."""
        failure = self.failure_from(error, traceback)
        killed = isinstance(error, TimeLimitExceeded)
        if killed and self.supervision is None and not _acks_on_timeout(self.task):
            self._requeue_after_kill()
            return False
        if killed or (self.attempt_end is None and not isinstance(error, Reject)):
            # The attempt did not come to its end: killed, or an error of Celery's own or of a loader.
            names = ("TimeLimitExceeded",) if killed else error_names(error)
            pause = self._pause_after(failure, names)
            if pause.s is not None:
                self._retry_now(failure, pause.s)
                return False
            failure = replace(failure, out_of_time=pause.out_of_time, final=pause.final)
        if self._escaped:
            self._end_later(FAILURE, failure.type, failure.message)
        self.settle_dead(failure)
        self._gave_up = True
        if isinstance(error, MemoryError):
            # Celery would raise it again here, in the main process, and so end a worker that has enough memory.
            task_ready(self)
            self.send_event("task-failed", exception=f"{failure.type}: {failure.message}", traceback="")
            return False
        return True

    def _success_was_stored(self) -> Any:
        """Celery asks when a pool process was lost: if it had stored the task's success, the delivery is handled."""
        stored = super()._success_was_stored()
        if stored and stored.get("result") is None and self.supervision is not None and self.supervision.run:
            # Its handler may have returned steps that take its place, which only the lost process knows.
            return None
        if stored and self.is_open():
            self.settle_handled(self._as_json(stored.get("result")), None)
            self.emit_resolved()
        return stored

    def _as_json(self, result: Any) -> Any:
        """A result that Celery's backend has decoded, as the outcome's JSON data; ``None`` if it cannot be."""
        try:
            return as_json(str(self.name), result)
        except InvalidResult as error:
            # The handler has run and the backend has its result, so the delivery is handled all the same.
            logger.warning("%s[%s]: its outcome is recorded without the result: %s", self.name, self.id, error)
            return None

    def reject(self, requeue: bool = False) -> None:
        """As Celery's, which would emit no event for a message that was settled before."""
        super().reject(requeue)
        if self._gave_up and not requeue:
            self.send_event("task-rejected", requeue=False)

    def _requeue_after_kill(self) -> None:
        """Requeue a plain send whose task has ``acks_on_timeout=False``; ``max_deaths`` bounds how often."""
        channel, tag = channel_of(self._message), self._message.delivery_tag
        if channel is None:
            return
        task_ready(self)
        channel.settler.requeue_interrupted(tag, ChildEnd.DIED)
        channel.qos.settled(tag)
        self.acknowledged = True
        self._continues = True
        self.send_event("task-rejected", requeue=True)

    def settling_failed(self, error: Exception) -> None:
        """As the base's, with the outcome that the sender waits for."""
        if self._returned and self.is_open():
            self.settle_with_outcome(Handled(None, self.attempt_number))
        super().settling_failed(error)

    def dead_letter_unsettled(self, channel: Any, tag: str, error: Exception) -> None:
        """As the base's, with the outcome that the sender waits for."""
        try:
            self.settle_dead(replace(self.failure_from(error, "".join(format_exception(error))), final=True))
        except Exception:
            logger.exception("could not build the failure record of %s[%s]", self.name, self.id)
            super().dead_letter_unsettled(channel, tag, error)

    def _pause_after(self, failure: Failure, names: tuple[str, ...]) -> Pause:
        """The pause that the policy has after this failure, whose error has these names."""
        if self.supervision is None:
            return Pause(None)
        return self.supervision.pause_s(self.attempt_number, (failure.type, *names), time.time())

    def _retry_now(self, failure: Failure, pause_s: float) -> None:
        task_ready(self)
        self.settle_retried(failure, pause_s)
        self.send_event("task-retried", exception=f"{failure.type}: {failure.message}", traceback="")
        self._continues = True

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed. After a hard one, :meth:`on_failure` has been called before."""
        if self._continues:
            logger.warning("%s[%s] did not finish within %s s and is retried", self.name, self.id, timeout)
            return None
        if not soft and self.is_open():
            # In a pool of greenlets, nothing else is called after a hard limit.
            failure = self.failure_from(TimeLimitExceeded(timeout), "")
            pause = self._pause_after(failure, ("TimeLimitExceeded",))
            if pause.s is not None:
                self._retry_now(failure, pause.s)
                return None
            self.settle_dead(replace(failure, out_of_time=pause.out_of_time, final=pause.final))
        return super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        channel = channel_of(self._message)
        if channel is not None and not self.acknowledged:
            if expired and self._keeps_expired(channel):
                self.settle_expired_as_dead(channel)
            else:
                self.settle_with_outcome(Expired() if expired else Cancelled(by=self._cancelled_by or reason))
        super()._announce_revoked(reason, terminated, signum, expired)

    def _keeps_expired(self, channel: Any) -> bool:
        """Whether this message becomes a dead letter if it expires."""
        policy = None if self.supervision is None else self.supervision.dead_letter_expired
        return bool(channel.options.dead_letter_expired if policy is None else policy)


def _unwrapped(exc_info: Any) -> Any:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _acks_on_timeout(task: Any) -> bool:
    """Whether a hard time limit acknowledges a message of this task; Celery 5.6 has one setting for it and failures."""
    return bool(getattr(task, "acks_on_timeout", task.acks_on_failure_or_timeout))
