"""The verdict on a delivery whose last attempt has failed: pure functions for the worker and eager mode."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.outcome import Dead, Reason
from orchestrator.core.policy import OnError
from orchestrator.core.supervision import Failure, Supervision
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
    reason = Reason.DEADLINE if last.out_of_time else _REASON_BY_ERROR.get(last.type)
    if reason is None:
        exhausted = supervision is None or (last.attempt > known.retry.max_retries and not last.final)
        reason = Reason.EXHAUSTED if exhausted else Reason.FINAL
    outcome = Dead(reason.value, f"{last.type}: {last.message}", attempts=last.attempt)
    keeps_letter = known.on_error in (OnError.DEAD_LETTER, OnError.RAISE)
    letter = LetterDraft(reason.value, last.type, last.message, last.attempt, known.after(last).failures)
    return Verdict(outcome, letter if keeps_letter else None, known.on_error is OnError.LOG)
