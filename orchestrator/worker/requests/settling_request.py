"""A request's ways to end an attempt: each is one script in Redis, the record of the outcome, and one event.

Which of them an attempt takes is decided in ``supervised_request.py``, by what Celery's pools report.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

from celery.exceptions import TimeLimitExceeded
from celery.worker.state import revoked

from orchestrator.core.admission.breaker import host_of
from orchestrator.core.admission.flow_policy import Breaker
from orchestrator.core.deliveries.history import Attempt, handled_record, how, now_text, outcome_record
from orchestrator.core.deliveries.outcome import Outcome, kind
from orchestrator.core.deliveries.supervision import HEADER, Failure, Supervision, hide_in
from orchestrator.core.errors import HandlerTimeout, ResultNotStored
from orchestrator.core.log import get_logger
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.own_fields import OVERRIDE
from orchestrator.transport.celery.tracked_request import TrackedRequest
from orchestrator.transport.channel import Channel
from orchestrator.transport.mailbox_entry import LINEAGE, SENT
from orchestrator.worker.execution import results
from orchestrator.worker.execution.failure_record import failure_of
from orchestrator.worker.requests.outcome_events import emit_dead, emit_handled, emit_resolved, emit_retried
from orchestrator.worker.requests.verdict import expired, final_failure

logger = get_logger(__name__)

#: Errors of attempts that a timeout has ended.
_TIMEOUTS = ("HandlerTimeout", "TimeLimitExceeded", "SoftTimeLimitExceeded")


class SettlingRequest(TrackedRequest):
    """Settles its message: handled, retried, dead, expired or cancelled.

    Each way sets ``acknowledged``, so that Celery's own book-keeping, which follows, sends nothing to the broker.
    """

    #: How the message is supervised; ``None`` for a plain Celery send.
    supervision: Supervision | None = None

    #: How the attempt ended where it ran, as the pool reported it.
    attempt_end: results.AttemptEnd | None = None

    @property
    def attempt_number(self) -> int:
        """1 for the first attempt."""
        return int(self._request_dict["retries"]) + 1

    def is_open(self) -> bool:
        """Whether this message is to be settled here, and not settled yet."""
        return channel_of(self._message) is not None and not self.acknowledged and self.task.acks_late

    def hidden(self) -> tuple[str, ...]:
        """Names of the fields whose values no log, event or record shows."""
        return (*self._app.orchestrator.runtime.hidden.names, *hide_in(self._message.headers))

    def override_timeout(self, channel: Channel) -> None:
        """Give the attempt the timeout that an operator has set meanwhile, for this attempt only."""
        holder, supervision = channel.settler.holder, self.supervision
        if holder is None or not holder.overrides or supervision is None:
            return
        timeout_s = holder.overrides.timeout_s(str(self._type), supervision.agent)
        if timeout_s is not None:
            self._request_dict[OVERRIDE] = timeout_s * self._app.orchestrator.settings.timeout_factor

    def settle_handled(self, result: Any, runtime_s: float | None) -> None:
        """Record that the handler returned ``result``: JSON data, or steps that take its place or that it waits for."""
        supervision = self.supervision
        if supervision is None:
            return
        attempts = self.attempt_number
        channel = channel_of(self._message)
        runtime_s = self._took_s(runtime_s)
        if supervision.track and channel is not None:
            if isinstance(result, (Expanded, Suspended)):
                record = {**self._handled_record(None, attempts, runtime_s), result.FIELD: result.to_wire()}
            else:
                record = self._handled_record(result, attempts, runtime_s)
            slow = "slow" if self._is_slow(runtime_s) else ""
            channel.settler.settle_with_outcome(
                self._message.delivery_tag, "handled", record, self.id, for_breaker=slow
            )
            self.acknowledged = True
        elif channel is not None and self._is_slow(runtime_s):
            channel.settler.settle(self._message.delivery_tag, "handled", "slow")
            channel.qos.settled(self._message.delivery_tag)
            self.acknowledged = True
        self._record_run(channel, runtime_s)
        emit_handled(supervision, self.id, attempts, runtime_s or 0.0)

    def _record_run(self, channel: Channel | None, runtime_s: float | None) -> None:
        """Count how long an attempt took; -1 if a timeout has ended it."""
        holder = None if channel is None else channel.settler.holder
        runtime_s = self._took_s(runtime_s)
        if holder is not None and runtime_s is not None:
            holder.run_times.record(str(self._type), runtime_s)

    def _took_s(self, runtime_s: float | None) -> float | None:
        """The seconds that the attempt took: as its pool measured them, else since the worker knows that it began."""
        if runtime_s is None and self.time_start:
            return max(0.0, time.time() - float(self.time_start))
        return runtime_s

    def _breaker(self) -> Breaker | None:
        """The circuit breaker of the message's agent."""
        agent = "" if self.supervision is None else self.supervision.agent
        return self._app.orchestrator.runtime.directory.breaker(agent) if agent else None

    def _is_slow(self, runtime_s: float | None) -> bool:
        """Whether the attempt took longer than its agent's breaker calls slow."""
        breaker = self._breaker()
        if breaker is None or breaker.slow_s is None:
            return False
        took_s = self._took_s(runtime_s)
        return took_s is not None and took_s > breaker.slow_s

    def _dead_for_breaker(self, reason: str) -> str:
        """The reason why the message is dead, and the host that sent it if the agent's breaker asks for that."""
        breaker = self._breaker()
        if breaker is None or breaker.callers == 1:
            return reason
        return f"{reason}\n{host_of(self._message.headers.get('origin'))}"

    def emit_resolved(self) -> None:
        """Emit that the dead letter that this message was replayed from is handled, if it is a replay."""
        emit_resolved(self._message.headers.get(LINEAGE), self.id)

    def settle_retried(self, failure: Failure, pause_s: float) -> None:
        """Replace the message by its next attempt, which is due in ``pause_s`` seconds."""
        supervision = self.supervision or Supervision()
        channel = channel_of(self._message)
        if channel is None:
            return
        tag = self._message.delivery_tag
        if not channel.settler.holds(tag):
            logger.warning(
                "%s[%s] is not retried: Redis has no claim of it (sent by Broadcast, or requeued after a sweep)",
                self.name, self.id,
            )  # fmt: skip
            channel.qos.settled(tag)
            self.acknowledged = True
            return
        payload = copy.copy(self._message._raw)
        payload["headers"] = {
            **self._message.headers,
            "retries": self.attempt_number,
            "eta": None,
            "expires": None,
            SENT: self._message.headers.get(SENT) or int(tag.split("-")[0]),
            HEADER: supervision.after(failure).to_wire(),
        }
        channel.settler.retry_later(tag, payload, channel.level_of(payload), pause_s)
        self.acknowledged = True
        if failure.type in _TIMEOUTS:
            self._record_run(channel, -1.0)
        emit_retried(supervision, self.id, self.attempt_number, failure, pause_s)

    def settle_dead(self, failure: Failure) -> None:
        """End the delivery, whose last attempt failed, as dead; its policy says whether a dead letter is kept."""
        supervision = self.supervision
        verdict = final_failure(supervision, failure)
        channel = channel_of(self._message)
        if channel is None:
            return
        # A cancellation came too late. Celery would remember it, and not run the message when it is replayed.
        revoked.discard(self.id)
        if failure.type in _TIMEOUTS and supervision is not None:
            self._record_run(channel, -1.0)
        tag = self._message.delivery_tag
        waited_for = self._waited_for()
        if verdict.letter is not None:
            letter = replace(verdict.letter, by=str(self.hostname))
            if channel.settler.dead_letter(tag, letter, self._record(verdict.outcome), waited_for) is None:
                # Redis has no message that could become a letter: it was sent by Broadcast, or requeued.
                self.acknowledged = True
                return
        elif waited_for:
            ending = self._dead_for_breaker(verdict.outcome.reason)
            channel.settler.settle_with_outcome(
                tag, "dead", self._record(verdict.outcome), waited_for, for_breaker=ending
            )
        else:
            channel.settler.settle(tag, "dead", self._dead_for_breaker(verdict.outcome.reason))
            channel.qos.settled(tag)
        self.acknowledged = True
        known = supervision or Supervision(message=self.name)
        if verdict.log:
            logger.error("%s %s dropped after its last attempt: %s", known.agent, known.message, verdict.outcome.error)
        emit_dead(verdict, agent=known.agent, message=known.message, delivery_id=self.id)

    def settle_expired_as_dead(self, channel: Any) -> None:
        """Make a dead letter of a message that expired before its first attempt."""
        known = self.supervision or Supervision(message=self.name, track=False)
        verdict = expired(str(self._request_dict.get("expires")), self.attempt_number - 1)
        # Celery remembers an expired message as revoked, and would not run it when it is replayed.
        revoked.discard(self.id)
        record = self._record(verdict.outcome)
        if verdict.letter is not None:
            letter = replace(verdict.letter, by=str(self.hostname))
            channel.settler.dead_letter(self._message.delivery_tag, letter, record, self.id if known.track else "")
        self.acknowledged = True
        emit_dead(verdict, agent=known.agent, message=known.message, delivery_id=self.id)

    def settle_with_outcome(self, outcome: Outcome) -> None:
        """Settle the message and record its outcome, if the delivery is tracked."""
        channel = channel_of(self._message)
        if self._waited_for() and channel is not None and not self.acknowledged:
            channel.settler.settle_with_outcome(
                self._message.delivery_tag, kind(outcome), self._record(outcome), self.id
            )
            self.acknowledged = True

    def _waited_for(self) -> str:
        return str(self.id) if self.supervision is not None and self.supervision.track else ""

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        """The outcome and its history, as JSON data."""
        last = Attempt(self.attempt_number, now_text(), str(self.hostname), how(outcome), _rounded(self._took_s(None)))
        return self._with_deaths(outcome_record(outcome, self.supervision, last))

    def _handled_record(self, result: Any, attempts: int, runtime_s: float | None) -> dict[str, Any]:
        record = handled_record(result, attempts, self.supervision, str(self.hostname), _rounded(runtime_s))
        return self._with_deaths(record)

    def _with_deaths(self, record: dict[str, Any]) -> dict[str, Any]:
        # Only a message that is delivered again can have been held by a worker that died.
        if self._message.delivery_info.get("redelivered") and (channel := channel_of(self._message)) is not None:
            record["deaths"] = channel.settler.deaths_of(self._message.delivery_tag)
        return record

    def failure_from(self, error: Any, traceback: Any) -> Failure:
        """The record of the failed attempt: as the pool's process made it, else made of ``error``."""
        if isinstance(self.attempt_end, results.Failed):
            return Failure.from_wire(self.attempt_end.failure)
        # An error that could not be pickled comes in a wrapper that has the name of its class.
        name = getattr(error, "exc_cls_name", type(error).__name__)
        supervision = self.supervision
        timeout_s = self._request_dict.get(OVERRIDE) or (None if supervision is None else supervision.timeout_s)
        if isinstance(error, TimeLimitExceeded) and timeout_s is not None:
            error = HandlerTimeout(str(self.name), timeout_s)
            name = type(error).__name__
        elif isinstance(self.attempt_end, results.Returned):
            error = ResultNotStored(str(self.name), f"{name}: {error}")
            name = type(error).__name__
        failure = failure_of(error, self.attempt_number, str(self.hostname), self.hidden(), str(traceback or ""))
        return replace(failure, type=name)


def _rounded(runtime_s: float | None) -> float | None:
    return None if runtime_s is None else round(runtime_s, 6)
