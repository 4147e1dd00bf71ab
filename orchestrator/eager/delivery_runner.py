"""A delivery from its acceptance to its outcome, run inline: the same attempts and verdicts as on a worker."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from traceback import format_exception
from typing import Any, Final

from celery import Celery, states
from celery.exceptions import Reject
from celery.result import EagerResult

from orchestrator.core.deliveries.history import Attempt, how, now_text
from orchestrator.core.deliveries.outcome import Cancelled, Dead, Expired, Handled, Outcome
from orchestrator.core.deliveries.supervision import HEADER, Failure, Supervision
from orchestrator.core.errors import HandlerFailed, ResultNotStored, UnknownMessage
from orchestrator.core.log import get_logger
from orchestrator.core.policies.policy import error_names
from orchestrator.core.secrets.long_texts import shortened
from orchestrator.core.secrets.masking import mask
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.deadletters.in_memory.store import InMemoryDeadLetterStore
from orchestrator.eager.eager_message import EagerMessage, UnreadableMessage, eager_message_of, encode_message
from orchestrator.eager.flow_control import EagerFlowControl
from orchestrator.eager.records import EagerRecords
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, own_headers
from orchestrator.telemetry import tracing
from orchestrator.transport.celery.own_fields import FENCE, OVERRIDE
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.transport.letter_draft import LetterDraft
from orchestrator.worker.execution import results
from orchestrator.worker.execution.failure_record import failure_of
from orchestrator.worker.execution.retry_scheduled import RetryScheduled
from orchestrator.worker.hosting import supervise_tasks
from orchestrator.worker.requests.outcome_events import emit_dead, emit_handled, emit_resolved, emit_retried
from orchestrator.worker.requests.verdict import Verdict, expired, final_failure

logger = get_logger(__name__)

#: The worker's name in records and dead letters.
_WORKER: Final = "eager"


class DeliveryRunner:
    """Runs deliveries one at a time, without waiting between attempts; records outcomes and keeps dead letters."""

    def __init__(
        self, app: Celery, flow: EagerFlowControl, records: EagerRecords, letters: InMemoryDeadLetterStore
    ) -> None:
        self._app = app
        self._flow = flow
        self._records = records
        self._letters = letters
        self._fencing_tokens = itertools.count(1)
        #: Called with the supervision and the outcome of each delivery that has ended.
        self.on_outcome: list[Callable[[Supervision, Outcome], None]] = []
        #: Called with the agent of each delivery, before it is attempted.
        self.on_start: Callable[[str], None] | None = None

    def run(self, outgoing: OutgoingMessage, raised: list[BaseException] | None = None) -> Outcome:
        """Run a message that a sender has handed in. What its last attempt raises is appended to ``raised``.

        Raises:
            InvalidMessage: its arguments are not JSON data.
            UnknownMessage: no task of that name is registered.
        """
        queue = getattr(outgoing.queue, "name", outgoing.queue) or self._app.conf.task_default_queue
        trace: dict[str, str] = {}
        with tracing.span(f"send {outgoing.task}", "PRODUCER", id=outgoing.id):
            tracing.carry(trace)
        if outgoing.trace is not None:
            outgoing.trace.update(trace)
        message = eager_message_of(outgoing, str(queue), trace)
        if outgoing.task not in self._app.tasks:
            raise UnknownMessage(message.queue, outgoing.task, sorted(self._app.tasks))
        return self.deliver(message, raised)

    def deliver(self, message: EagerMessage, raised: list[BaseException] | None = None) -> Outcome:
        """Run all attempts of a message. What the last one raises is appended to ``raised``."""
        supervise_tasks(self._app)
        if self.on_start is not None and message.outgoing.supervision.agent:
            self.on_start(message.outgoing.supervision.agent)
        delivery_id, queue = message.outgoing.id, message.queue
        task = self._app.tasks[message.outgoing.task]
        self._records.count(queue, "accepted")
        supervision = message.outgoing.supervision
        outcome: Outcome | None = self._expire(message)
        attempt = 1
        began = monotonic()
        while outcome is None:
            began = monotonic()
            result = self._attempt(task, message, supervision, attempt)
            error = result.result
            if result.state == states.RETRY and isinstance(error, RetryScheduled):
                failure = error.last_failure()
                supervision = supervision.after(failure)
                self._flow.failed(supervision.agent)
                self._records.count(queue, "retried")
                emit_retried(supervision, delivery_id, attempt, failure, float(error.when or 0))
                attempt += 1
            elif result.state in (states.SUCCESS, states.IGNORED):
                ended = results.take(delivery_id)
                outcome = Handled(ended.result if isinstance(ended, results.Returned) else None, attempt)
                took_s = monotonic() - began
                self._flow.handled(supervision.agent, took_s)
                self._app.orchestrator.runtime.modes.eager.run_times.record(message.outgoing.task, took_s)
                emit_handled(supervision, delivery_id, attempt, took_s)
                if message.lineage:
                    emit_resolved(message.lineage, delivery_id)
            else:
                error = _error_in(result, message.outgoing)
                if raised is not None:
                    raised.append(_handlers_own(error))
                verdict = self._judge(message, supervision, attempt, result, error)
                outcome = self._end_as_dead(message, supervision, attempt, verdict)
                self._flow.failed(supervision.agent, outcome.reason)
        last = Attempt(attempt, now_text(), _WORKER, how(outcome), round(monotonic() - began, 6))
        recorded = outcome
        if isinstance(outcome, Handled) and isinstance(outcome.result, Expanded | Suspended):
            recorded = Handled(None, attempt)
        self._records.end(queue, delivery_id, recorded, supervision, last)
        for callback in self.on_outcome:
            callback(supervision, outcome)
        return recorded

    def cancel(self, outgoing: OutgoingMessage, by: str) -> None:
        """End a message that was accepted and not run."""
        queue = str(getattr(outgoing.queue, "name", outgoing.queue) or self._app.conf.task_default_queue)
        outcome = Cancelled(by=by)
        self._records.count(queue, "accepted")
        last = Attempt(0, now_text(), _WORKER, how(outcome), None)
        self._records.end(queue, outgoing.id, outcome, outgoing.supervision, last)
        for callback in self.on_outcome:
            callback(outgoing.supervision, outcome)

    def dead_letter_unreadable(self, queue: str, raw: bytes, why: UnreadableMessage) -> None:
        """Keep a message that cannot be executed as a dead letter again, as ``DeadLetterUnprocessable`` does."""
        self._records.count(queue, "accepted")
        text = str(mask(shortened(why.text), self._app.orchestrator.runtime.hidden.names))
        letter = LetterDraft(why.reason.value, why.error, text)
        self._dead_letter(raw, queue, letter)
        self._records.count(queue, "dead")
        letter.emit(agent=queue, message="", delivery_id="", error=why.error)

    def _attempt(self, task: Any, message: EagerMessage, supervision: Supervision, attempt: int) -> Any:
        """One attempt. Its errors, and those of Celery's tracer, are in the result that it returns."""
        outgoing = message.outgoing
        try:
            return task.apply(
                message.args,
                message.kwargs,
                task_id=outgoing.id,
                retries=attempt - 1,
                throw=False,
                headers={
                    **own_headers(outgoing),
                    HEADER: supervision.to_wire(),
                    FENCE: next(self._fencing_tokens),
                    **self._overridden(outgoing),
                    **message.trace,
                },
                link=list(outgoing.link) or None,
                link_error=list(outgoing.link_error) or None,
            )
        except Reject as error:
            return EagerResult(outgoing.id, error, states.REJECTED)
        except BaseException as error:
            if is_exit(error):
                raise
            # Raised by a loader, a hook or a callback. On a worker, Celery's tracer would make a failure of it.
            pause = supervision.pause_s(attempt, error_names(error), time.time())
            if pause.s is None or results.is_remembered(outgoing.id):
                return EagerResult(outgoing.id, error, states.FAILURE, "".join(format_exception(error)))
            failure = failure_of(error, attempt, _WORKER, self._app.orchestrator.runtime.hidden.names_for(supervision))
            text = f"attempt {attempt} failed: {failure.type}: {failure.message}"
            scheduled = RetryScheduled(text, exc=error, when=pause.s, failure=failure.to_wire())
            return EagerResult(outgoing.id, scheduled, states.RETRY)

    def _overridden(self, outgoing: OutgoingMessage) -> dict[str, float]:
        """The field of a request whose timeout is overridden at present."""
        runtime = self._app.orchestrator.runtime
        timeout_s = runtime.modes.eager.overrides.timeout_s(outgoing.task, outgoing.supervision.agent)
        return {} if timeout_s is None else {OVERRIDE: timeout_s * runtime.settings.timeout_factor}

    def _judge(
        self, message: EagerMessage, supervision: Supervision, attempt: int, result: Any, error: BaseException
    ) -> Verdict:
        """The verdict on the last attempt, which failed with ``error``."""
        task = message.outgoing.task
        ended = results.take(message.outgoing.id)
        if isinstance(ended, results.Failed):
            failure = Failure.from_wire(ended.failure)
        else:
            recorded = error
            if isinstance(ended, results.Returned):
                recorded = ResultNotStored(task, f"{type(error).__name__}: {error}")
            stack = str(result.traceback) if result.traceback else None
            failure = failure_of(
                recorded, attempt, _WORKER, self._app.orchestrator.runtime.hidden.names_for(supervision), stack
            )
        if result.state == states.REJECTED:
            failure = replace(failure, type="Reject")
        verdict = final_failure(supervision, failure)
        if verdict.log:
            logger.error(
                "%s %s dropped after its last attempt: %s",
                supervision.agent,
                supervision.message,
                verdict.outcome.error,
            )
        return verdict

    def _expire(self, message: EagerMessage) -> Outcome | None:
        """The outcome of a message whose ``expires_s`` is no longer than its ``countdown_s``; ``None`` for others.

        Nothing else waits in eager mode, so nothing else expires.
        """
        outgoing = message.outgoing
        if outgoing.expires_s is None or outgoing.expires_s > (outgoing.countdown_s or 0.0):
            return None
        if not outgoing.supervision.dead_letter_expired:
            return Expired()
        return self._end_as_dead(message, outgoing.supervision, 1, expired(now_text(), 0))

    def _end_as_dead(self, message: EagerMessage, supervision: Supervision, attempt: int, verdict: Verdict) -> Dead:
        outcome = verdict.outcome
        if verdict.letter is not None:
            raw = encode_message(message, supervision, attempt)
            outcome = replace(outcome, letter_id=self._dead_letter(raw, message.queue, verdict.letter))
        outgoing = message.outgoing
        emit_dead(
            verdict,
            agent=supervision.agent,
            message=supervision.message or outgoing.task,
            delivery_id=outgoing.id,
        )
        return outcome

    def _dead_letter(self, raw: bytes, queue: str, letter: LetterDraft) -> str:
        return self._letters.add(raw, replace(letter, by=_WORKER).fields(queue))


def _error_in(result: Any, outgoing: OutgoingMessage) -> BaseException:
    error = result.result
    if isinstance(error, BaseException):
        return error
    return RuntimeError(f"{outgoing.task} ended as {result.state}: {error!r}")


def _handlers_own(error: BaseException) -> BaseException:
    """The error of the handler, if that is no ``Exception`` and so reached Celery's tracer as another error."""
    cause = error.__cause__
    return cause if isinstance(error, HandlerFailed) and cause is not None else error
