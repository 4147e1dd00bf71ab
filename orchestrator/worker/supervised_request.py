"""Settling, in the worker's main process: the one place where a delivery gets its outcome."""

from __future__ import annotations

import copy
import time
import weakref
from dataclasses import replace
from traceback import format_exception
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.concurrency.prefork import TaskPool as PreforkPool
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

from orchestrator.core.errors import HandlerTimeout, NotSupervised, ResultNotStored
from orchestrator.core.history import HISTORY, Attempt, history, how, now_text
from orchestrator.core.log import get_logger
from orchestrator.core.masking import mask
from orchestrator.core.outcome import Cancelled, Expired, Handled, Outcome, kind, to_wire
from orchestrator.core.policy import error_names
from orchestrator.core.supervision import HEADER, Failure, Pause, Supervision, hide_in
from orchestrator.sending.shown_arguments import masked_args, masked_kwargs, masked_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.own_fields import FENCE, INCARNATION
from orchestrator.transport.celery.reporting_pool import ESCAPED
from orchestrator.transport.celery.tracked_request import TrackedRequest, is_unsent_retry, name_and_text
from orchestrator.transport.endings.stream import FAILURE, SUCCESS
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.mailbox_entry import LINEAGE, SENT
from orchestrator.worker import results
from orchestrator.worker.execution import failure_of
from orchestrator.worker.fencing_token import fence_at
from orchestrator.worker.message_format import check_body, check_headers
from orchestrator.worker.retry_scheduled import RetryScheduled
from orchestrator.worker.verdict import Verdict, expired, final_failure

logger = get_logger(__name__)

#: What ``Task.replace`` says when the task it names has taken over this delivery, id and all.
_REPLACED = "Replaced by new task"

_FOREIGN_TRACER = "{} did not run as an attempt, so it is not known what came of it; allowed: Celery's own tracer"


class SupervisedRequest(TrackedRequest):
    """A Celery request that ends in exactly one recorded outcome.

    Settling comes first and Celery's own book-keeping after it, which then finds the message acknowledged.
    """

    #: How the attempt ended where it ran, as the pool saw it.
    _kept: results.MaintenanceResult | None = None

    #: Whether another attempt follows a hard time limit.
    _goes_on = False

    #: Whether an error escaped Celery's tracer, so that the result backend does not know of a last failure.
    _escaped = False

    #: Whether the message became a dead letter, or nothing, because its last attempt failed.
    _gave_up = False

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            check_body(self._payload)
            self._known = check_headers(self._request_dict) or self._default_supervision()
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
        """How an agent's message is supervised that was sent without this library, and so says nothing of it."""
        default = getattr(self.task, "__default_supervision__", None)
        if default is None or channel_of(self._message) is None:
            # No agent's message, or one by a broker that could not settle it.
            return None
        known: Supervision = default()
        self._request_dict[HEADER] = known.to_wire()
        return known

    def submit(self, pool: Any, **kwargs: Any) -> Any:
        """As Celery's, with a trace function that also brings the result back."""
        if self.revoked():
            raise TaskRevokedError(self.id)
        guarded = self.hand_to(pool)
        channel = channel_of(self._message)
        if channel is not None:
            # The pool's processes hold no lease; who does is known here only.
            self._request_dict[INCARNATION] = channel.incarnation
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

    def _limits(self, pool: Any) -> tuple[float | None, float | None]:
        """Celery's hard and soft limit of this attempt: the task's or else the worker's, or the send's if it is less.

        Only a prefork pool is told of the send's: it can interrupt its processes, and kill those that go on.
        """
        hard_s, soft_s = self.time_limits
        hard_s, soft_s = hard_s or self.task.time_limit, soft_s or self.task.soft_time_limit
        supervision = self._supervision()
        limit_s = None if supervision is None else supervision.limit_s(time.time())
        if limit_s is None or limit_s <= 0 or not isinstance(pool, PreforkPool):
            return hard_s, soft_s
        # The pool knows its worker's, and forgets them where it is told others.
        hard_s, soft_s = hard_s or pool.options.get("timeout"), soft_s or pool.options.get("soft_timeout")
        kill_s = limit_s + self._app.orchestrator.settings.kill_after_s
        hard_s, soft_s = min(hard_s or kill_s, kill_s), min(soft_s or limit_s, limit_s)
        # The pool begins to count for the hard limit when the soft one has passed.
        return hard_s, soft_s if soft_s < hard_s else None

    def _supervision(self) -> Supervision | None:
        return self._known

    def info(self, safe: bool = False) -> Any:
        """As Celery's, which ``inspect`` shows, without what is hidden of the arguments."""
        shown = super().info(safe)
        hidden = self._hidden()
        if safe:
            return {**shown, "args": self.argsrepr, "kwargs": self.kwargsrepr}
        args, kwargs = masked_args(self._task, shown["args"], hidden), masked_kwargs(shown["kwargs"], hidden)
        return {**shown, "args": args, "kwargs": kwargs}

    @property
    def argsrepr(self) -> str:
        """The text of the positional arguments in logs and events. A sender without this library masks nothing."""
        return masked_text(str(self._argsrepr or ""), self._hidden())

    @property
    def kwargsrepr(self) -> str:
        """The text of the keyword arguments in logs and events."""
        return masked_text(str(self._kwargsrepr or ""), self._hidden())

    def _hidden(self) -> tuple[str, ...]:
        return (*self._app.orchestrator.hidden, *hide_in(self._message.headers))

    @property
    def _attempt(self) -> int:
        return int(self._request_dict["retries"]) + 1

    def _open(self) -> bool:
        """Whether this delivery is ours to settle and not settled yet."""
        return channel_of(self._message) is not None and not self.acknowledged and self.task.acks_late

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """The handler returned, or raised what is in the first element."""
        if isinstance(failed__retval__runtime, ExceptionInfo):
            # A handler has left the interpreter, where the pool is not a process of its own.
            return self.on_failure(failed__retval__runtime)
        failed, (value, kept), runtime_s = failed__retval__runtime
        if kept is results.SkipReason.EXPIRED:
            return self._announce_revoked("expired", False, None, True)
        self._kept = kept
        if failed:
            value = results.unpacked(value)
            if runtime_s == ESCAPED and isinstance(kept, results.Returned):
                return self._returned_unstored(kept, value)
            if runtime_s == ESCAPED and isinstance(kept, results.Failed):
                # What escaped came after the handler's own error.
                self._end_later(FAILURE, str(kept.failure.get("type", "")), str(kept.failure.get("message", "")))
                runtime_s = None
            elif runtime_s == ESCAPED:
                self._escaped, runtime_s = True, None
        elif self._open() and kept is None and self._supervision() is not None and not self._was_run_before():
            self._failed(self._failure(NotSupervised(_FOREIGN_TRACER.format(self.name)), ""))
        elif self._open():
            self._returned = True
            self._handled(kept.result if isinstance(kept, results.Returned) else None, runtime_s)
            self._resolved()
        return super().on_success((failed, value, runtime_s), **kwargs)

    def _was_run_before(self) -> bool:
        """Whether Celery may have found that a success of this very message is stored."""
        return bool(self._app.conf.worker_deduplicate_successful_tasks)

    def _returned_unstored(self, kept: results.Returned, info: Any) -> Any:
        """The handler has run, but neither its result nor a failure could be stored: a worker stores it later."""
        name, text = name_and_text(info)
        shown = mask(text, self._hidden())
        known = self._supervision() or Supervision(message=self.name)
        logger.error("%s[%s] returned; its result is stored later: %s: %s", self.name, self.id, name, shown)
        emit(events.RESULT_WAITS, agent=known.agent, message=known.message, id=self.id, error=f"{name}: {shown}")
        if self._open():
            self._returned = True
            if not self._ignore_result or (self._payload[2] or {}).get("chord"):
                ends = (SUCCESS, "", kept.stored) if kept.stored else (FAILURE, name, text)
                self._end_later(*ends)
            self._handled(kept.result, None)
            self._resolved()
        return TrackedRequest.on_success(self, (0, kept.shown, None))

    def _handled(self, value: Any, runtime_s: float | None) -> None:
        supervision = self._supervision()
        if supervision is None:
            return
        attempt = self._attempt
        channel = channel_of(self._message)
        if supervision.track and channel is not None:
            record = self._record(Handled(value, attempt), runtime_s)
            channel.settler.settle_with_outcome(self._message.delivery_tag, "handled", record, self.id)
            self.acknowledged = True
        emit(
            events.HANDLED,
            {"runtime_s": runtime_s or 0.0},
            agent=supervision.agent,
            message=supervision.message,
            id=self.id,
            attempts=attempt,
        )

    def _resolved(self) -> None:
        lineage = self._message.headers.get(LINEAGE)
        if isinstance(lineage, dict):
            emit(events.RESOLVED, letter_id=str(lineage.get("of", "")), id=self.id)

    def on_retry(self, exc_info: Any) -> Any:
        """The attempt failed and there is another."""
        error = _unwrapped(exc_info)
        if isinstance(error, RetryScheduled) and self._open():
            # It bounds the wait for the first attempt, which is over.
            self._expires = None
            if self.revoked():
                # Cancelled while it ran, where nothing could interrupt it.
                return None
            self._retry(error.last_failure(), float(error.when or 0))
        return super().on_retry(exc_info)

    def _retry(self, failure: Failure, pause_s: float) -> None:
        supervision = self._supervision() or Supervision()
        channel = channel_of(self._message)
        if channel is None:
            return
        tag = self._message.delivery_tag
        if not channel.settler.holds(tag):
            logger.warning(
                "%s[%s] is not tried again: Redis holds no message for it (Broadcast, or handed on)", self.name, self.id
            )
            channel.qos.settled(tag)
            self.acknowledged = True
            return
        payload = copy.copy(self._message._raw)
        payload["headers"] = {
            **self._message.headers,
            "retries": self._attempt,
            "eta": None,
            "expires": None,
            SENT: self._message.headers.get(SENT) or int(tag.split("-")[0]),
            HEADER: supervision.after(failure).to_wire(),
        }
        channel.settler.retry_later(tag, payload, channel.step_of(payload), pause_s)
        self.acknowledged = True
        emit(
            events.RETRIED,
            {"pause_s": pause_s},
            agent=supervision.agent,
            message=supervision.message,
            id=self.id,
            attempt=self._attempt,
            error=failure.type,
        )

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The attempt failed for good, or its process is gone."""
        error = _unwrapped(exc_info)
        if is_unsent_retry(error, exc_info):
            error.requeue = True
        # A lost process gives the message back, unless the user says otherwise; the others have ways of their own.
        elsewhere = (
            isinstance(error, CeleryRetry | Ignore | Terminated)
            or (isinstance(error, WorkerLostError) and self.task.reject_on_worker_lost)
            or (isinstance(error, Reject) and error.requeue)
        )
        if not elsewhere and not isinstance(error, SystemExit | KeyboardInterrupt) and self._open():
            failure = self._failure(error, exc_info.traceback)
            if isinstance(error, TimeLimitExceeded):
                if self._supervision() is None and not _acks_on_timeout(self.task):
                    self._give_back_after_kill()
                    return None
                pause = self._after_kill(failure)
                if pause.s is not None:
                    self._try_again(failure, pause.s)
                    return None
                failure = replace(failure, out_of_time=pause.out_of_time, final=pause.final)
            elif self._kept is None and not isinstance(error, Reject):
                pause = self._after_tracer(failure, error)
                if pause.s is not None:
                    self._try_again(failure, pause.s)
                    return None
                failure = replace(failure, out_of_time=pause.out_of_time, final=pause.final)
            if self._escaped:
                self._end_later(FAILURE, failure.type, failure.message)
            self._failed(failure)
            self._gave_up = True
            if isinstance(error, MemoryError):
                # Celery would raise it again here, in the main process, and so end a worker whose memory is fine.
                task_ready(self)
                self.send_event("task-failed", exception=f"{failure.type}: {failure.message}", traceback="")
                return None
        elif isinstance(error, Ignore) and self._open() and str(error) != _REPLACED:
            self._handled(None, None)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _success_was_stored(self) -> Any:
        """Celery asks when a pool process was lost after it had stored the result: then the delivery is handled."""
        stored = super()._success_was_stored()
        if stored and self._open():
            self._handled(stored.get("result"), None)
            self._resolved()
        return stored

    def reject(self, requeue: bool = False) -> None:
        """As Celery's, which would say nothing of a message that has been settled here before."""
        super().reject(requeue)
        if self._gave_up and not requeue:
            self.send_event("task-rejected", requeue=False)

    def _give_back_after_kill(self) -> None:
        """A plain send whose task says ``acks_on_timeout=False``: it runs again, as often as a message may kill."""
        channel, tag = channel_of(self._message), self._message.delivery_tag
        if channel is None:
            return
        task_ready(self)
        channel.settler.requeue_interrupted(tag, ChildEnd.DIED)
        channel.qos.settled(tag)
        self.acknowledged = True
        self._goes_on = True
        self.send_event("task-rejected", requeue=True)

    def settling_failed(self, error: Exception) -> None:
        """As the base's, with the outcome that its sender waits for."""
        supervision, channel = self._supervision(), channel_of(self._message)
        if self._returned and self._open() and channel is not None and supervision is not None and supervision.track:
            record = self._record(Handled(None, self._attempt))
            channel.settler.settle_with_outcome(self._message.delivery_tag, "handled", record, self.id)
            self.acknowledged = True
        super().settling_failed(error)

    def _waited_for(self) -> str:
        supervision = self._supervision()
        return str(self.id) if supervision is not None and supervision.track else ""

    def bury_unsettled(self, channel: Any, tag: str, error: Exception) -> None:
        """As the base's, with the outcome that its sender waits for."""
        try:
            self._failed(replace(self._failure(error, "".join(format_exception(error))), final=True))
        except Exception:
            logger.exception("could not build the failure record of %s[%s]", self.name, self.id)
            super().bury_unsettled(channel, tag, error)

    def _after_tracer(self, failure: Failure, error: BaseException) -> Pause:
        """What comes after an error of Celery's own or of a loader, before the attempt has come to an end."""
        supervision = self._supervision()
        if supervision is None:
            return Pause(None)
        return supervision.pause_s(self._attempt, (failure.type, *error_names(error)), time.time())

    def _after_kill(self, failure: Failure) -> Pause:
        """What comes after Celery's hard time limit has killed the process that ran this."""
        supervision = self._supervision()
        if supervision is None:
            return Pause(None)
        return supervision.pause_s(self._attempt, (failure.type, "TimeLimitExceeded"), time.time())

    def _try_again(self, failure: Failure, pause_s: float) -> None:
        task_ready(self)
        self._retry(failure, pause_s)
        self.send_event("task-retried", exception=f"{failure.type}: {failure.message}", traceback="")
        self._goes_on = True

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """A time limit has passed. After a hard one, :meth:`on_failure` has been called before."""
        if self._goes_on:
            logger.warning("%s[%s] did not finish within %s s and is tried again", self.name, self.id, timeout)
            return None
        if not soft and self._open():
            # A pool of greenlets, which tells nobody else of it.
            failure = self._failure(TimeLimitExceeded(timeout), "")
            pause = self._after_kill(failure)
            if pause.s is not None:
                self._try_again(failure, pause.s)
                return None
            self._failed(replace(failure, out_of_time=pause.out_of_time, final=pause.final))
        return super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        supervision = self._supervision()
        channel = channel_of(self._message)
        if expired and channel is not None and not self.acknowledged and self._buries(channel, supervision):
            self._bury_expired(channel, supervision)
        elif supervision is not None and supervision.track and channel is not None and not self.acknowledged:
            outcome = Expired() if expired else Cancelled(by=reason)
            channel.settler.settle_with_outcome(
                self._message.delivery_tag, kind(outcome), self._record(outcome), self.id
            )
            self.acknowledged = True
        super()._announce_revoked(reason, terminated, signum, expired)

    def _record(self, outcome: Outcome, runtime_s: float | None = None) -> dict[str, Any]:
        """The outcome and how it came to it, for whoever asks."""
        if runtime_s is None and self.time_start:
            runtime_s = max(0.0, time.time() - self.time_start)
        took_s = None if runtime_s is None else round(runtime_s, 6)
        last = Attempt(self._attempt, now_text(), str(self.hostname), how(outcome), took_s)
        record = {**to_wire(outcome), HISTORY: history(self._supervision(), last)}
        # Only what is delivered again can have cost somebody's life.
        if self._message.delivery_info.get("redelivered") and (channel := channel_of(self._message)) is not None:
            record["deaths"] = channel.settler.deaths_of(self._message.delivery_tag)
        return record

    @staticmethod
    def _buries(channel: Any, supervision: Supervision | None) -> bool:
        asked = None if supervision is None else supervision.dead_letter_expired
        return bool(channel.options.dead_letter_expired if asked is None else asked)

    def _bury_expired(self, channel: Any, supervision: Supervision | None) -> None:
        known = supervision or Supervision(message=self.name, track=False)
        verdict = expired(str(self._request_dict.get("expires")), self._attempt - 1)
        letter = {**(verdict.letter or {}), "by": str(self.hostname)}
        # Celery remembers it as revoked, and would not run it when the letter is sent again.
        revoked.discard(self.id)
        record = self._record(verdict.outcome)
        channel.settler.bury(self._message.delivery_tag, letter, record, self.id if known.track else "")
        self.acknowledged = True
        emit(
            events.BURIED,
            agent=known.agent,
            message=known.message,
            id=self.id,
            reason=verdict.outcome.reason,
            error=verdict.outcome.error,
            attempts=verdict.outcome.attempts,
        )

    def _failure(self, error: Any, traceback: Any) -> Failure:
        if isinstance(self._kept, results.Failed):
            return Failure.from_wire(self._kept.failure)
        # What could not be pickled comes wrapped, with the name of the class it was.
        name = getattr(error, "exc_cls_name", type(error).__name__)
        supervision = self._supervision()
        if isinstance(error, TimeLimitExceeded) and supervision is not None and supervision.timeout_s is not None:
            error = HandlerTimeout(str(self.name), supervision.timeout_s)
            name = type(error).__name__
        elif isinstance(self._kept, results.Returned):
            error = ResultNotStored(str(self.name), f"{name}: {error}")
            name = type(error).__name__
        failure = failure_of(error, self._attempt, str(self.hostname), self._hidden(), str(traceback or ""))
        return replace(failure, type=name)

    def _failed(self, failure: Failure) -> None:
        supervision = self._supervision()
        verdict = final_failure(supervision, failure)
        channel = channel_of(self._message)
        if channel is None:
            return
        # Who cancelled it came too late. Celery would remember it, and not run it when the letter is sent again.
        revoked.discard(self.id)
        tag = self._message.delivery_tag
        waited_for = self.id if supervision is not None and supervision.track else ""
        if verdict.letter is not None:
            letter = {**verdict.letter, "by": str(self.hostname)}
            if channel.settler.bury(tag, letter, self._record(verdict.outcome), waited_for) is None:
                # Redis holds no message that could become a letter: Broadcast, or handed on.
                self.acknowledged = True
                return
        elif waited_for:
            channel.settler.settle_with_outcome(tag, "dead", self._record(verdict.outcome), waited_for)
        else:
            channel.settler.settle(tag, "dead", verdict.outcome.reason)
            channel.qos.settled(tag)
        self.acknowledged = True
        self._emit_verdict(verdict, supervision)

    def _emit_verdict(self, verdict: Verdict, supervision: Supervision | None) -> None:
        known = supervision or Supervision(message=self.name)
        if verdict.log:
            logger.error("%s %s given up: %s", known.agent, known.message, verdict.outcome.error)
        emit(
            events.BURIED if verdict.letter is not None else events.DROPPED,
            agent=known.agent,
            message=known.message,
            id=self.id,
            reason=verdict.outcome.reason,
            error=verdict.outcome.error,
            attempts=verdict.outcome.attempts,
        )


def _unwrapped(exc_info: Any) -> Any:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _acks_on_timeout(task: Any) -> bool:
    """Whether a hard time limit acknowledges a message of this task; Celery 5.6 has one setting for it and failures."""
    return bool(getattr(task, "acks_on_timeout", task.acks_on_failure_or_timeout))
