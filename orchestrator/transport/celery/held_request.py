"""Celery's request for a message that this process holds: whatever fails, the message is ended or requeued."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from weakref import ref

from celery.worker import state
from celery.worker.request import Request

from orchestrator.celery_types import Message, Pool
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.reporting_pool import ReportingPool, is_done, withdraw
from orchestrator.transport.channel import Channel
from orchestrator.transport.letter_draft import MESSAGE_LIMIT, LetterDraft
from orchestrator.transport.liveness.child_exit import ChildEnd
from orchestrator.transport.liveness.worker_state import WORKER_STATE

logger = get_logger(__name__)


def channel_of(message: Message) -> Channel | None:
    """The channel a message came by, if it is one of ours."""
    channel = message.channel
    return channel if isinstance(channel, Channel) else None


def _nothing_runs() -> bool:
    return True


class HeldRequest(Request):
    """A request that the worker checks until it is settled: some code runs it, or is about to.

    When an error keeps Celery's own request from its pool, or escapes a callback, the message stays claimed for as long
    as the worker lives.
    """

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

    #: Whether the request is complete: Celery settles by itself what cannot become a request.
    _is_made = False

    def note_reserved(self) -> None:
        """The request is complete; from now on the worker checks that it is not lost on its way to the pool."""
        self._is_made = True
        channel = channel_of(self._message)
        if channel is not None:
            channel.settler.reserved(self._message.delivery_tag, ref(self))

    def forgotten(self) -> None:
        """End a message that was reserved and then lost."""
        self.abandon("it was reserved, and then lost on its way to the pool")

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

    def hand_to(self, pool: Pool) -> ReportingPool:
        """A view of the pool that reports to this request.

        Records it if the pool runs whatever it has been given; only prefork can still drop a message.
        """
        self._pool = pool
        channel = channel_of(self._message)
        if channel is not None and "flush" not in vars(pool):
            channel.settler.handed(self._message.delivery_tag)
        return ReportingPool(pool, self)

    def start_failed(self, error: Exception) -> None:
        """The start of the task could not be recorded, or a callback of Celery's failed then: log it."""
        logger.exception("%s[%s] runs although its start could not be recorded", self.name, self.id)

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
                self.dead_letter_unsettled(channel, tag, error)
            self.acknowledged = True
        state.task_ready(self)

    def dead_letter_unsettled(self, channel: Channel, tag: str, error: Exception) -> None:
        """Make a dead letter of the message, whose end could not be reported."""
        letter = LetterDraft(Reason.RESULT.value, type(error).__name__, str(error)[:MESSAGE_LIMIT], attempts=1)
        self._dead_letter(channel, tag, letter, letter.described)
        channel.qos.settled(tag)

    def _dead_letter(self, channel: Channel, tag: str, letter: LetterDraft, text: str) -> None:
        """``text`` is what Celery records."""
        outcome, celery_error = letter.outcome(letter.text), ("SettlementFailed", text)
        if channel.settler.dead_letter(tag, letter, outcome, self._waited_for(), celery_error=celery_error) is not None:
            queue = str((self._message.delivery_info or {}).get("routing_key") or "")
            letter.emit(agent=queue, message=str(self.name), delivery_id=str(self.id), error=letter.text)

    def _waited_for(self) -> str:
        """The delivery id under which the outcome is recorded; empty if it is not."""
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

        It is requeued once, because the cause may have been this worker. If it was delivered before, it becomes a dead
        letter.
        """
        channel = channel_of(self._message)
        if channel is None or self._already_cancelled or self._already_revoked or WORKER_STATE.is_stopping():
            return
        tag = self._message.delivery_tag
        returned = not self.delivery_info.get("redelivered")
        logger.error(
            "%s[%s]: %s; it %s", self.name, self.id, text, "is requeued" if returned else "becomes a dead letter"
        )
        emit(events.ABANDONED, message=str(self.name), id=str(self.id), became="returned" if returned else "dead")
        if returned:
            channel.settler.requeue([tag], may_have_begun=True)
            channel.qos.settled(tag)
        else:
            self._dead_letter(channel, tag, LetterDraft(Reason.UNSETTLED.value, "SettlementFailed", text, 1), text)
        self.acknowledged = True
        if self._pool is not None:
            withdraw(self._pool, self.id)
        state.task_ready(self)
