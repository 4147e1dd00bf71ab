"""Eager mode: the same attempts, verdicts and dead letters as on a worker, inline, with no Redis and no waiting."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from traceback import format_exception
from typing import Any

from celery import Celery, states
from celery.exceptions import Reject
from celery.result import EagerResult
from celery.utils.functional import maybe_list

from orchestrator.core.errors import CircuitOpen, HandlerFailed, ResultNotStored, UnknownMessage
from orchestrator.core.flow_policy import Flow
from orchestrator.core.history import HISTORY, Attempt, history, how, now_text
from orchestrator.core.log import get_logger
from orchestrator.core.masking import mask
from orchestrator.core.outcome import Dead, Expired, Handled, Outcome, kind, to_wire
from orchestrator.core.policy import error_names
from orchestrator.core.supervision import HEADER, Failure, Supervision
from orchestrator.deadletters.in_memory_store import InMemoryDeadLetterStore
from orchestrator.eager.eager_message import EagerMessage, Unreadable, decode_message, eager_message_of, encode_message
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.sending.broadcast import BroadcastRequest, Refusal, Strategy
from orchestrator.sending.celery_sends import TaskSend, check_arguments, has_own_way, send_by_task
from orchestrator.sending.delivery import CancelResult, Found
from orchestrator.sending.ledger import LedgerRow
from orchestrator.sending.publish import OutgoingMessage, own_headers
from orchestrator.sending.sender import SendResult
from orchestrator.telemetry import emit, events, tracing
from orchestrator.transport.celery.own_fields import FENCE
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.worker import results
from orchestrator.worker.execution import MESSAGE_LIMIT, failure_of
from orchestrator.worker.hosting import supervise_tasks
from orchestrator.worker.retry_scheduled import RetryScheduled
from orchestrator.worker.verdict import Verdict, expired, final_failure

logger = get_logger(__name__)

_BY = "eager"


class EagerBackend:
    """What Redis and the workers are otherwise, for one app in one process."""

    inline = True

    @property
    def tracker(self) -> EagerBackend:
        """It knows itself."""
        return self

    def __init__(self, app: Celery, flow: Callable[[str], Flow]) -> None:
        self._app = app
        self._flow = EagerFlowControl(flow)
        self.letters = InMemoryDeadLetterStore(self._send_again)
        self._outcomes: dict[str, Outcome] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._counters: dict[str, dict[str, int]] = {}
        self._fences = itertools.count(1)
        #: By the id of a broadcast's copy that died: its compensation, should it be replayed, and the broadcast.
        self._undo: dict[str, tuple[OutgoingMessage, str]] = {}
        self._lock = threading.Lock()

    def hosted(self, parcel: OutgoingMessage) -> bool:
        """Everything is hosted here."""
        return True

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """The outcome of a delivery; nothing is ever pending, so nothing is waited for."""
        return self._outcomes.get(delivery_id)

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The outcome as it is kept."""
        return self._records.get(delivery_id)

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """Nothing is ever on its way."""
        return None

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """Nothing is ever on its way."""
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """Everything has its outcome by the time it can be cancelled."""
        return CancelResult.TOO_LATE if delivery_id in self._outcomes else CancelResult.UNKNOWN

    def close_breaker(self, agent: str) -> bool | None:
        """Close an agent's breaker by hand: whether it was not closed; ``None`` if there is none."""
        return self._flow.close(agent)

    def ledger(self) -> list[LedgerRow]:
        """The ledger of what was sent eagerly."""
        with self._lock:
            return [LedgerRow(queue, **counters) for queue, counters in sorted(self._counters.items())]

    def prepare(self, parcel: OutgoingMessage) -> None:
        """Nothing comes before a first message here."""

    def send(self, parcel: OutgoingMessage) -> SendResult:
        """Run a parcel to its outcome, retries included; or find the delivery it repeats.

        Raises:
            InvalidMessage: its arguments are not JSON data, which a broker would have refused too.
            CircuitOpen: its recipient's breaker is open.
            Exception: what its last attempt has raised, with Celery's setting ``task_eager_propagates``.
        """
        raised: list[BaseException] = []
        taken = self._send(parcel, raised)
        if raised and self._app.conf.task_eager_propagates:
            raise raised[-1]
        return taken

    def _send(self, parcel: OutgoingMessage, raised: list[BaseException] | None = None) -> SendResult:
        """As :meth:`send`, which alone raises what a handler has raised: of many, the others are to run.

        What the last attempt has raised is added to ``raised``.
        """
        task = None if parcel.supervision.agent else self._app.tasks.get(parcel.task)
        place: Mapping[str, Any] | None = None
        if task is not None and has_own_way(task):
            supervise_tasks(self._app)
            send = TaskSend(parcel, {}, inline=True)
            send_by_task(task, send)
            if not send.published:
                return SendResult(parcel.id, published=False)
            parcel, place = _as_sent(parcel, send), send.place()
        elif task is not None:
            check_arguments(task, parcel.args, parcel.kwargs)
        duplicate = self._flow.duplicate_of(parcel)
        if duplicate is not None:
            return SendResult(duplicate)
        try:
            self._flow.admit(parcel.supervision.agent)
            self._run(parcel, raised)
        except BaseException:
            self._flow.forget(parcel)
            raise
        self._flow.ended(parcel)
        return SendResult(parcel.id, place=place)

    def send_many(self, parcels: Sequence[OutgoingMessage]) -> None:
        """Run parcels one after the other."""
        for done, parcel in enumerate(parcels):
            try:
                self._send(parcel)
            except CircuitOpen as error:
                error.accepted, error.requested = done, len(parcels)
                raise

    def broadcast(self, cast: BroadcastRequest) -> Mapping[int, Refusal]:
        """Run the copies of a broadcast one after the other, and then the compensations there is cause for.

        Only an open breaker refuses one: nobody is down here, and no mailbox is full.
        """
        refused: dict[int, Refusal] = {}
        if cast.strategy is Strategy.ALL_OR_NOTHING:
            for place, parcel in enumerate(cast.parcels):
                with _refusing(refused, place):
                    self._flow.admit(parcel.supervision.agent, peek=True)
            if refused:
                return refused
        for place, parcel in enumerate(cast.parcels):
            with _refusing(refused, place):
                self._send(parcel)
        ended = [self._outcomes.get(parcel.id) for parcel in cast.parcels]
        if any(outcome is not None and not isinstance(outcome, Handled) for outcome in ended):
            for place, undo in enumerate(cast.compensations):
                if isinstance(ended[place], Handled):
                    self._compensate(undo, cast.id)
                elif isinstance(ended[place], Dead):
                    self._undo[cast.parcels[place].id] = undo, cast.id
        return refused

    def _compensate(self, undo: OutgoingMessage, broadcast: str) -> None:
        self._run(undo)
        emit(events.COMPENSATED, agent=undo.supervision.agent, id=undo.id, broadcast=broadcast)

    def _run(self, parcel: OutgoingMessage, raised: list[BaseException] | None = None) -> Outcome:
        queue = getattr(parcel.queue, "name", parcel.queue) or self._app.conf.task_default_queue
        carried: dict[str, str] = {}
        with tracing.span(f"send {parcel.task}", "PRODUCER", id=parcel.id):
            tracing.carry(carried)
        if parcel.trace is not None:
            parcel.trace.update(carried)
        mail = eager_message_of(parcel, str(queue), carried)
        if parcel.task not in self._app.tasks:
            raise UnknownMessage(mail.queue, parcel.task, sorted(self._app.tasks))
        return self._deliver(mail, raised)

    def _deliver(self, mail: EagerMessage, raised: list[BaseException] | None = None) -> Outcome:
        supervise_tasks(self._app)
        parcel, queue = mail.parcel, mail.queue
        task = self._app.tasks[parcel.task]
        self._count(queue, "accepted")
        supervision = parcel.supervision
        outcome: Outcome | None = self._too_late(mail)
        retries = 0
        began = monotonic()
        while outcome is None:
            began = monotonic()
            result = self._attempt(task, mail, supervision, retries)
            again = result.result
            if result.state == states.RETRY and isinstance(again, RetryScheduled):
                supervision = supervision.after(again.last_failure())
                retries += 1
                self._flow.failed(supervision.agent)
                self._count(queue, "retried")
                emit(
                    events.RETRIED,
                    {"pause_s": float(again.when or 0)},
                    agent=supervision.agent,
                    message=supervision.message,
                    id=parcel.id,
                    attempt=retries,
                    error=again.last_failure().type,
                )
            elif result.state in (states.SUCCESS, states.IGNORED):
                kept = results.take(parcel.id)
                outcome = Handled(kept.result if isinstance(kept, results.Returned) else None, retries + 1)
                self._flow.handled(supervision.agent)
                emit(
                    events.HANDLED,
                    {"runtime_s": monotonic() - began},
                    agent=supervision.agent,
                    message=supervision.message,
                    id=parcel.id,
                    attempts=outcome.attempts,
                )
                if mail.lineage:
                    emit(events.RESOLVED, letter_id=str(mail.lineage.get("of", "")), id=parcel.id)
            else:
                error = _error_in(result, parcel)
                if raised is not None:
                    raised.append(_handlers_own(error))
                outcome = self._failed(mail, supervision, retries + 1, result, error)
                self._flow.failed(supervision.agent, outcome.reason)
        self._count(queue, kind(outcome))
        self._outcomes[parcel.id] = outcome
        last = Attempt(retries + 1, now_text(), _BY, how(outcome), round(monotonic() - began, 6))
        self._records[parcel.id] = {**to_wire(outcome), HISTORY: history(supervision, last)}
        return outcome

    def _attempt(self, task: Any, mail: EagerMessage, supervision: Supervision, retries: int) -> Any:
        """One attempt; its errors, and those of Celery's tracer, are in what it returns."""
        parcel = mail.parcel
        try:
            return task.apply(
                mail.args,
                mail.kwargs,
                task_id=parcel.id,
                retries=retries,
                throw=False,
                headers={
                    **own_headers(parcel),
                    HEADER: supervision.to_wire(),
                    FENCE: next(self._fences),
                    **mail.carried,
                },
                link=list(parcel.link) or None,
                link_error=list(parcel.link_error) or None,
            )
        except Reject as error:
            return EagerResult(parcel.id, error, states.REJECTED)
        except BaseException as error:
            if is_exit(error):
                raise
            # Of a loader, a hook or a callback: on a worker, Celery's tracer would make a failure of it.
            number = retries + 1
            pause = supervision.pause_s(number, error_names(error), time.time())
            if pause.s is None or results.is_kept(parcel.id):
                return EagerResult(parcel.id, error, states.FAILURE, "".join(format_exception(error)))
            failure = failure_of(error, number, _BY, self._app.orchestrator.hidden_of(supervision))
            text = f"attempt {number} failed: {failure.type}: {failure.message}"
            again = RetryScheduled(text, exc=error, when=pause.s, failure=failure.to_wire())
            return EagerResult(parcel.id, again, states.RETRY)

    def _failed(
        self, mail: EagerMessage, supervision: Supervision, attempt: int, result: Any, error: BaseException
    ) -> Dead:
        parcel = mail.parcel
        kept = results.take(parcel.id)
        if isinstance(kept, results.Failed):
            failure = Failure.from_wire(kept.failure)
        else:
            shown = error
            if isinstance(kept, results.Returned):
                shown = ResultNotStored(parcel.task, f"{type(error).__name__}: {error}")
            stack = str(result.traceback) if result.traceback else None
            failure = failure_of(shown, attempt, _BY, self._app.orchestrator.hidden_of(supervision), stack)
        if result.state == states.REJECTED:
            failure = replace(failure, type="Reject")
        verdict = final_failure(supervision, failure)
        if verdict.log:
            logger.error("%s %s given up: %s", supervision.agent, supervision.message, verdict.outcome.error)
        return self._given_up(mail, supervision, attempt, verdict)

    def _too_late(self, mail: EagerMessage) -> Outcome | None:
        """The outcome of what may wait for less long than it is to. Nothing else waits here."""
        parcel = mail.parcel
        countdown_s = parcel.countdown_s or 0.0
        if parcel.expires_s is None or parcel.expires_s > countdown_s:
            return None
        if not parcel.supervision.dead_letter_expired:
            return Expired()
        verdict = expired(now_text(), 0)
        return self._given_up(mail, parcel.supervision, 1, verdict)

    def _given_up(self, mail: EagerMessage, supervision: Supervision, attempt: int, verdict: Verdict) -> Dead:
        outcome = verdict.outcome
        if verdict.letter is not None:
            raw = encode_message(mail, supervision, attempt)
            outcome = replace(outcome, letter_id=self._bury(raw, mail.queue, verdict.letter))
        emit(
            events.BURIED if verdict.letter is not None else events.DROPPED,
            agent=supervision.agent,
            message=supervision.message or mail.parcel.task,
            id=mail.parcel.id,
            reason=outcome.reason,
            error=outcome.error,
            attempts=outcome.attempts,
        )
        return outcome

    def _bury(self, raw: bytes, queue: str, letter: Mapping[str, Any]) -> str:
        return self.letters.add(raw, {"queue": queue, "by": _BY, "at": round(time.time() * 1000), **letter})

    def _send_again(self, queue: str, raw: bytes) -> bool:
        try:
            mail = decode_message(self._app, queue, raw)
        except Unreadable as unreadable:
            self._buried_unread(queue, raw, unreadable)
            return False
        self._flow.admit(mail.parcel.supervision.agent)
        outcome = self._deliver(mail)
        if isinstance(outcome, Handled) and (undo := self._undo.pop(mail.parcel.id, None)) is not None:
            self._compensate(*undo)
        return isinstance(outcome, Dead) and outcome.letter_id is None

    def _buried_unread(self, queue: str, raw: bytes, why: Unreadable) -> None:
        """As a worker buries what its doors have let nobody see (guard.py)."""
        self._count(queue, "accepted")
        text = str(mask(why.text, self._app.orchestrator.hidden))
        error = {"type": why.error, "message": text[:MESSAGE_LIMIT]}
        self._bury(raw, queue, {"reason": why.reason.value, "error": error, "attempts": 0})
        self._count(queue, "dead")
        emit(events.BURIED, agent=queue, message="", id="", reason=why.reason.value, error=why.error, attempts=0)

    def _count(self, queue: str, counter: str) -> None:
        with self._lock:
            counters = self._counters.setdefault(queue, {})
            counters[counter] = counters.get(counter, 0) + 1


def _error_in(result: Any, parcel: OutgoingMessage) -> BaseException:
    error = result.result
    if isinstance(error, BaseException):
        return error
    return RuntimeError(f"{parcel.task} ended as {result.state}: {error!r}")


def _handlers_own(error: BaseException) -> BaseException:
    """What the handler raised, if that is no ``Exception`` and so reached Celery's tracer as another error."""
    cause = error.__cause__
    return cause if isinstance(error, HandlerFailed) and cause is not None else error


def _as_sent(parcel: OutgoingMessage, send: TaskSend) -> OutgoingMessage:
    """The parcel as its task's own class would have published it."""
    said = send.options
    return replace(
        parcel,
        id=send.id,
        args=send.args,
        kwargs=send.kwargs,
        queue=said.get("queue") or parcel.queue,
        link=maybe_list(said.get("link")) or (),
        link_error=maybe_list(said.get("link_error")) or (),
        options={**parcel.options, "headers": said.get("headers") or {}},
    )


@contextmanager
def _refusing(refused: dict[int, Refusal], place: int) -> Iterator[None]:
    try:
        yield
    except CircuitOpen:
        refused[place] = Refusal.OPEN
