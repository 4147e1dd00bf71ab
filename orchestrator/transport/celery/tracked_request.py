"""Celery's request, which also marks that a pool has started on a message, and how the process that ran it ended."""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.backends.base import DisabledBackend
from celery.exceptions import InvalidTaskError, Reject, TaskRevokedError, WorkerLostError
from celery.utils.time import maybe_iso8601
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.celery_types import Message
from orchestrator.core.log import get_logger
from orchestrator.transport.celery.held_request import HeldRequest, channel_of
from orchestrator.transport.celery.own_fields import hide_own_fields
from orchestrator.transport.celery.reporting_pool import ESCAPED
from orchestrator.transport.endings.stream import FAILURE
from orchestrator.transport.letter_draft import MESSAGE_LIMIT
from orchestrator.transport.liveness.child_exit import ChildEnd, end_of
from orchestrator.transport.liveness.worker_state import WORKER_STATE
from orchestrator.transport.redis.refusals import may_pass

logger = get_logger(__name__)

hide_own_fields()


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
    return type(error).__name__, str(error)[:MESSAGE_LIMIT]


class TrackedRequest(HeldRequest):
    """Marks execution, so that a death counts against the message being executed and no other."""

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

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A pool process or thread starts on this task."""
        # Celery first: a signal that comes while the mark is being sent must find this among what runs.
        super().on_accepted(pid, time_accepted)
        self.mark_started()

    def mark_started(self) -> None:
        """Mark the message as running: a death counts against it from now on, unless it is acknowledged early."""
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
            logger.debug("task %s not cancelled: %s cannot stop a running task", self.id, type(pool).__module__)
            return
        channel = channel_of(self._message)
        if channel is not None and channel.closed and self._already_cancelled and not self.acknowledged:
            # Its connection was lost, and Celery assumes that the broker has requeued the message.
            channel.settler.requeue([self._message.delivery_tag], may_have_begun=True)
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
        """Have a worker record for Celery how this ended, once its result backend can be reached."""
        channel = channel_of(self._message)
        if channel is not None and not self.acknowledged and self._celery_waits():
            channel.settler.end_later(self._message, state_name, error, text)

    def _celery_waits(self) -> bool:
        """Whether a result backend, callbacks, errbacks, a chain or a chord depend on how this ended."""
        stored = not self._ignore_result or self.task.store_errors_even_if_ignored
        if stored and not isinstance(self.task.backend, DisabledBackend):
            return True
        try:
            follows = self._payload[2] or {}
            return any(follows.get(name) for name in ("callbacks", "errbacks", "chain", "chord"))
        except Exception:  # noqa: BLE001
            # The body cannot be read; the worker that delivers the ending decides.
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
        """Whether the message is requeued when the pool process that runs it is lost."""
        return bool(
            channel_of(self._message) is not None
            and not self.acknowledged
            and self.task.acks_late
            and self.task.reject_on_worker_lost
        )

    def reject(self, requeue: bool = False) -> None:
        """Requeue or dead-letter the message. Its pool process' death is counted if the message may be the cause."""
        channel = channel_of(self._message)
        if channel is not None and requeue and self.child_end is not None and not self.acknowledged:
            tag = self._message.delivery_tag
            if self._was_told_to_stop():
                logger.warning("%s[%s] requeued: its pool process received a stop signal", self.name, self.id)
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
