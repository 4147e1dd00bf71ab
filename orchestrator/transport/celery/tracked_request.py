"""Celery's request, which also tells the transport when a pool starts on a message and when it died of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.backends.base import DisabledBackend
from celery.exceptions import InvalidTaskError, Reject, TaskRevokedError, WorkerLostError
from celery.utils.time import maybe_iso8601
from celery.worker import state
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.celery_types import Message
from orchestrator.core.log import get_logger
from orchestrator.core.outcome import Reason
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.own_fields import hide_own_fields
from orchestrator.transport.celery.reporting_pool import ESCAPED, ReportingPool, is_done, withdraw
from orchestrator.transport.channel import Channel
from orchestrator.transport.endings.stream import FAILURE
from orchestrator.transport.liveness.child_exit import ChildEnd, end_of
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.redis.refusals import may_pass

logger = get_logger(__name__)

hide_own_fields()


def channel_of(message: Message) -> Channel | None:
    """The channel a message came by, if it is one of ours."""
    channel = message.channel
    return channel if isinstance(channel, Channel) else None


def _nothing_runs() -> bool:
    return True


def is_unsent_retry(error: Any, exc_info: Any) -> bool:
    """Whether Celery rejects a message only because its task's ``self.retry`` could not publish the next attempt.

    The message is all there is of it then: it stays, and runs again.
    """
    if not isinstance(error, Reject) or error.requeue or ", in retry" not in str(exc_info.traceback or ""):
        return False
    return isinstance(error.reason, OperationalError | RedisError | OSError) and may_pass(error.reason)


def name_and_text(info: Any) -> tuple[str, str]:
    """The class and the text of the error in a billiard ``ExceptionInfo``."""
    error = info.exception
    if isinstance(error, ExceptionWithTraceback):
        error = error.exc
    return type(error).__name__, str(error)[:2000]


class TrackedRequest(Request):
    """Marks execution, so that a death blames the message being executed and no other."""

    #: How the process that ran this message ended, once it did.
    child_end: ChildEnd | None = None

    acknowledged: bool

    #: The pool that was given this message.
    _pool: Any = None

    #: Whether the pool's code for this message is gone; ``None`` where that is not known.
    _is_done: Callable[[], bool] | None = None

    #: How many of the pool's callbacks are running.
    settling = 0

    #: Whether the handler returned.
    _returned = False

    #: Whether the request is complete: Celery has others than this one settle what cannot become a request.
    _is_made = False

    def __init__(self, message: Message, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        eta = getattr(message, "eta_waited", None)
        if eta:
            try:
                maybe_iso8601(eta)
            except (AttributeError, ValueError, TypeError) as error:
                raise InvalidTaskError(f"invalid ETA value {eta!r}: {error}") from error
            # For the task; the worker would wait once more.
            self._request_dict["eta"] = eta
        self.note_reserved()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Celery derives a class per task with copies of these two that call no base; ours are needed.
        if cls.__module__ == "celery.worker.request":
            for name in ("on_success", "execute_using_pool"):
                if name in cls.__dict__:
                    delattr(cls, name)

    def note_reserved(self) -> None:
        """The request is complete; the worker checks that it is not lost on its way to the pool."""
        self._is_made = True
        channel = channel_of(self._message)
        if channel is not None:
            channel.settler.reserved(self._message.delivery_tag, ref(self))

    def forgotten(self) -> None:
        """End a message that was reserved and then lost."""
        self.abandon("it was reserved, and then lost on its way to the pool")

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Hand the task to the pool. If that fails, the message is ended as one that nothing has settled.

        Raises:
            TaskRevokedError: the task will not run, and its pool slot is free.
        """
        try:
            return self.submit(pool, **kwargs)
        except TaskRevokedError:
            raise
        except Exception as error:
            # A solo pool has run the task by now, and settled it.
            if self.acknowledged or channel_of(self._message) is None or WORKER_STATE.is_stopping():
                raise
            self.abandon(f"it could not be handed to the pool ({type(error).__name__}: {error})")
            # Nobody sees the error itself where a slot that became free has called this, and the slot would be lost.
            raise TaskRevokedError(self.id) from error

    def submit(self, pool: Any, **kwargs: Any) -> Any:
        """As Celery's ``execute_using_pool``."""
        return super().execute_using_pool(self.hand_to(pool), **kwargs)

    def __del__(self) -> None:
        """Nothing refers to this request any more. If its message is still held, nothing will ever settle it."""
        try:
            if not self._is_made or self.acknowledged or sys.is_finalizing():
                return
            channel, tag = channel_of(self._message), self._message.delivery_tag
        except AttributeError:
            return
        if channel is not None and channel.settler.holds(tag):
            # The claim keeps it alive until the worker's check of itself has ended the message.
            self._is_done = _nothing_runs
            channel.settler.runs(tag, self)

    def hand_to(self, pool: Any) -> ReportingPool:
        """The pool, as this message sees it.

        Tells the transport if this pool runs whatever it has been given; prefork forgets it when told to.
        """
        self._pool = pool
        channel = channel_of(self._message)
        if channel is not None and "flush" not in vars(pool):
            channel.settler.handed(self._message.delivery_tag)
        return ReportingPool(pool, self)

    def start_failed(self, error: Exception) -> None:
        """The start of the task could not be noted, or Celery had something to do then and could not."""
        logger.exception("%s[%s] runs although its start could not be noted", self.name, self.id)

    def settling_failed(self, error: Exception) -> None:
        """A callback of the pool raised: log it, and settle the message if that is still to be done."""
        logger.exception("settling %s[%s] failed", self.name, self.id)
        failure = f"{type(error).__name__}: {error}"
        channel, tag = channel_of(self._message), self._message.delivery_tag
        queue = str((self._message.delivery_info or {}).get("routing_key") or "")
        emit(events.SETTLING_FAILED, agent=queue, message=str(self.name), id=str(self.id), error=failure)
        if channel is not None and not self.acknowledged:
            if self.child_end is not None:
                self.reject(requeue=True)
            elif self._returned:
                channel.settler.settle(tag, "handled")
                channel.qos.settled(tag)
            else:
                self.acknowledged = True
                self.bury_unsettled(channel, tag, error)
            self.acknowledged = True
        state.task_ready(self)

    def bury_unsettled(self, channel: Channel, tag: str, error: Exception) -> None:
        """Make a dead letter of the message, whose end could not be reported."""
        told = {"type": type(error).__name__, "message": str(error)[:2000]}
        self._bury(channel, tag, Reason.RESULT, told, ("SettlementFailed", f"{told['type']}: {told['message']}"))
        channel.qos.settled(tag)

    def _bury(
        self, channel: Channel, tag: str, reason: Reason, error: Mapping[str, str], celery_error: tuple[str, str]
    ) -> None:
        outcome = {"outcome": "dead", "reason": reason.value, "error": error["message"], "attempts": 1}
        letter = {"reason": reason.value, "error": error, "attempts": 1}
        if channel.settler.bury(tag, letter, outcome, self._waited_for(), celery_error=celery_error) is not None:
            queue = str((self._message.delivery_info or {}).get("routing_key") or "")
            emit(
                events.BURIED,
                agent=queue,
                message=str(self.name),
                id=str(self.id),
                reason=reason.value,
                error=error["message"],
                attempts=1,
            )

    def _waited_for(self) -> str:
        """The delivery whose outcome somebody may ask for."""
        return ""

    def watch(self, pool: Any, result: Any) -> None:
        """The pool has the message; the worker checks that code runs for it until it is settled."""
        channel = channel_of(self._message)
        if channel is not None and not self.acknowledged:
            self._is_done = is_done(pool, result)
            channel.settler.runs(self._message.delivery_tag, self)

    def is_over(self) -> bool:
        """Whether no code runs for this message any more, although it is not settled."""
        return self._is_done is not None and self._is_done() and not self.settling and not self.acknowledged

    def abandon(self, text: str = "its execution is over, and nothing has settled it") -> None:
        """End a message for which no code runs, or will run; called by the worker's check of itself, too.

        It goes back to its mailbox once: this may have been the worker's trouble. If it was handed out before, it is a
        dead letter.
        """
        channel = channel_of(self._message)
        if channel is None or self._already_cancelled or self._already_revoked or WORKER_STATE.is_stopping():
            return
        tag = self._message.delivery_tag
        returned = not self.delivery_info.get("redelivered")
        logger.error(
            "%s[%s]: %s; it %s", self.name, self.id, text, "goes back" if returned else "becomes a dead letter"
        )
        emit(events.ABANDONED, message=str(self.name), id=str(self.id), became="returned" if returned else "dead")
        if returned:
            channel.settler.requeue([tag])
            channel.qos.settled(tag)
        else:
            told = {"type": "SettlementFailed", "message": text}
            self._bury(channel, tag, Reason.UNSETTLED, told, ("SettlementFailed", text))
        self.acknowledged = True
        if self._pool is not None:
            withdraw(self._pool, self.id)
        state.task_ready(self)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A pool process or thread starts on this task."""
        # Celery first: a signal that comes while the mark is being sent must find this among what runs.
        super().on_accepted(pid, time_accepted)
        self.mark_started()

    def mark_started(self) -> None:
        """Have a death from here on be on this message's account, or nobody's if it is acknowledged early."""
        channel = channel_of(self._message)
        if channel is None:
            return
        if not self.task.acks_late:
            # Celery leaves that to its event loop, which has no turn before a solo pool's task has ended.
            channel.settler.settle_at_once(self._message.delivery_tag)
        else:
            channel.settler.started(self._message.delivery_tag)
            if state.should_terminate and self._pool is not None:
                # Celery cancelled what ran and now waits for the pool, in which this began too late for that.
                self.cancel(self._pool, emit_retry=False)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Called in a cold shutdown for all that runs.

        Where a pool cannot end what it runs (solo, threads), Celery's own raises that from the signal's handler: in
        solo, into the task, which would have failed for no fault of its own.
        """
        try:
            super().cancel(pool, signal=signal, emit_retry=emit_retry)
        except NotImplementedError:
            logger.debug("%s goes on until it ends: %s", self.id, type(pool).__name__)
            return
        channel = channel_of(self._message)
        if channel is not None and channel.closed and self._already_cancelled and not self.acknowledged:
            # Its connection was lost, and Celery takes it that the broker has the message again.
            channel.settler.requeue([self._message.delivery_tag])
            channel.qos.settled(self._message.delivery_tag)
            self.acknowledged = True

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """The task returned, or raised what is in the first element."""
        if isinstance(failed__retval__runtime, ExceptionInfo):
            # SystemExit, where the pool is not a process of its own; Celery's own fails here, and settles nothing.
            return self.on_failure(failed__retval__runtime)
        failed, value, runtime_s = failed__retval__runtime
        self._returned = not failed
        if failed and runtime_s == ESCAPED:
            # The tracer could not store the failure, so a worker does later.
            self._end_later(FAILURE, *name_and_text(value))
        return super().on_success(failed__retval__runtime, **kwargs)

    def _end_later(self, state_name: str, error: str, text: str) -> None:
        """Have Celery be told how this ended, when its result backend can be reached."""
        channel = channel_of(self._message)
        if channel is not None and not self.acknowledged and self._celery_waits():
            channel.settler.end_later(self._message, state_name, error, text)

    def _celery_waits(self) -> bool:
        """Whether a result backend, callbacks, errbacks, a chain or a chord are to get to know how this ended."""
        stored = not self._ignore_result or self.task.store_errors_even_if_ignored
        if stored and not isinstance(self.task.backend, DisabledBackend):
            return True
        try:
            follows = self._payload[2] or {}
            return any(follows.get(name) for name in ("callbacks", "errbacks", "chain", "chord"))
        except Exception:  # noqa: BLE001
            # A body that cannot be read: whoever delivers the ending sees.
            return True

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The task raised, or its process is gone."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        # A child that leaves by SystemExit says so before it is gone.
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            self.child_end = end_of(error, stopping=WORKER_STATE.is_stopping())
            # Celery logs the error, although nothing failed: the message goes back, and `reject` logs that.
            return_ok = return_ok or (self._was_told_to_stop() and self._goes_back())
        elif is_unsent_retry(error, exc_info):
            error.requeue = True
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _was_told_to_stop(self) -> bool:
        return self.child_end in (ChildEnd.STOPPING, ChildEnd.STOP_SIGNAL)

    def _goes_back(self) -> bool:
        """Whether the message returns to its mailbox when its process is lost."""
        return bool(
            channel_of(self._message) is not None
            and not self.acknowledged
            and self.task.acks_late
            and self.task.reject_on_worker_lost
        )

    def reject(self, requeue: bool = False) -> None:
        """Give the message back or bury it; the end of the process that ran it counts, if the message may be why."""
        channel = channel_of(self._message)
        if channel is not None and requeue and self.child_end is not None and not self.acknowledged:
            tag = self._message.delivery_tag
            if self._was_told_to_stop():
                logger.warning("%s[%s] goes back to its mailbox: its process was told to stop", self.name, self.id)
            channel.settler.requeue_interrupted(tag, self.child_end)
            channel.qos.settled(tag)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=True)
            return
        super().reject(requeue)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        channel = channel_of(self._message)
        if channel is not None and not self.acknowledged:
            tag = self._message.delivery_tag
            channel.settler.settle(tag, "expired" if expired else "cancelled")
            channel.qos.settled(tag)
        super()._announce_revoked(reason, terminated, signum, expired)
