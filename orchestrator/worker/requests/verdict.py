"""The verdict on a delivery whose last attempt has failed: pure functions for the worker and eager mode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.agents.votes import is_vote
from orchestrator.core.deliveries.outcome import Dead, Reason
from orchestrator.core.deliveries.supervision import Failure, Supervision
from orchestrator.core.policies.policy import OnError
from orchestrator.transport.letter_draft import LetterDraft

_REASON_BY_ERROR = {
    "InvalidMessage": Reason.VALIDATION,
    "InvalidExpansion": Reason.VALIDATION,
    "HandlerTimeout": Reason.TIMEOUT,
    "DeadlinePassed": Reason.DEADLINE,
    "NotRegistered": Reason.UNKNOWN_TASK,
    "TimeLimitExceeded": Reason.TIMEOUT,
    "SoftTimeLimitExceeded": Reason.TIMEOUT,
    "Reject": Reason.REJECTED,
    "InvalidResult": Reason.RESULT,
    "ResultNotStored": Reason.RESULT,
    "ResultTooLarge": Reason.RESULT_TOO_LARGE,
    "NotSupervised": Reason.UNSUPERVISED,
    "HandlerNotRun": Reason.DEPLOYMENT,
    "Nondeterministic": Reason.DEPLOYMENT,
    "CallNotDeployed": Reason.DEPLOYMENT,
}

#: How an attempt ends that had no more time: of its own, or for what it has called.
_TIMEOUTS: Final = ("HandlerTimeout", "TimeLimitExceeded", "SoftTimeLimitExceeded", "DeadlinePassed", "DeliveryTimeout")

#: An attempt is interrupted by another clock than the one that its end is read from.
_CLOCKS_S: Final = 0.05

#: The time of a failure is recorded in whole ms.
_ROUNDED_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, the dead letter if one is kept, and whether the policy wants an error in the log."""

    outcome: Dead
    letter: LetterDraft | None
    log: bool


def expired(when: str, attempts: int) -> Verdict:
    """The verdict on a message that expired and becomes a dead letter."""
    text = f"it expired at {when}"
    letter = LetterDraft(Reason.EXPIRED.value, "Expired", text, attempts)
    return Verdict(Dead(Reason.EXPIRED.value, text, attempts), letter, log=False)


def final_failure(supervision: Supervision | None, last: Failure) -> Verdict:
    """The verdict on the last failed attempt. A plain Celery send has the default policy."""
    known = supervision or Supervision(track=False)
    is_late = last.out_of_time or _has_ended_late(known, last)
    reason = _REASON_BY_ERROR.get(last.type)
    if reason is None:
        exhausted = supervision is None or (last.attempt > known.retry.max_retries and not last.final)
        reason = Reason.EXHAUSTED if exhausted else Reason.FINAL
    if is_late:
        reason = Reason.DEADLINE
    elif reason is Reason.DEADLINE:
        # What it has called had no time left of the handler's own.
        reason = Reason.TIMEOUT
    outcome = Dead(reason.value, f"{last.type}: {last.message}", attempts=last.attempt)
    # An ask leaves no letter, because its asker has the error; but this error the agent that is asked has to correct.
    is_no_reply = known.ask and reason in (Reason.RESULT, Reason.RESULT_TOO_LARGE)
    # The voter was slow, which is no fault.
    is_late_vote = is_late and is_vote(known.message) and last.type in _TIMEOUTS
    keeps_letter = is_no_reply or (known.on_error in (OnError.DEAD_LETTER, OnError.RAISE) and not is_late_vote)
    letter = LetterDraft(reason.value, last.type, last.message, last.attempt, known.after(last).failures)
    return Verdict(outcome, letter if keeps_letter else None, known.on_error is OnError.LOG and not is_late_vote)


def _has_ended_late(supervision: Supervision, last: Failure) -> bool:
    """Whether its deadline has ended the attempt, or has passed when it failed and nobody keeps what it failed with.

    Who waits for a request has given up then, or is about to.
    """
    deadline_at_s = supervision.binding_deadline_at_s
    if deadline_at_s is None:
        return False
    is_timeout = last.type in _TIMEOUTS
    if not is_timeout and (supervision.on_error is not OnError.IGNORE or last.type in _REASON_BY_ERROR):
        return False
    early_s = _CLOCKS_S if is_timeout else _ROUNDED_S
    return datetime.fromisoformat(last.at).timestamp() >= deadline_at_s - early_s
