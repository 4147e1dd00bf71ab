"""What becomes of a delivery whose last attempt has failed."""

from dataclasses import replace

import pytest

from orchestrator.core.deliveries.outcome import Dead
from orchestrator.core.deliveries.supervision import Failure, Supervision
from orchestrator.core.policies.policy import OnError, Retry
from orchestrator.worker.requests.verdict import final_failure

#: 2026-01-01 00:00:02.
DEADLINE_AT_S = 1767225602.0


def failure(kind: str = "ValueError", attempt: int = 4) -> Failure:
    return Failure(attempt, kind, "no", "Traceback …", "now", "w1")


@pytest.mark.parametrize(
    ("kind", "attempt", "reason"),
    [
        ("ValueError", 4, "retries exhausted"),
        ("ValueError", 1, "non-retryable error"),
        ("NotSupervised", 1, "not supervised"),
        ("HandlerNotRun", 1, "deployment"),
        ("Nondeterministic", 1, "deployment"),
        ("CallNotDeployed", 1, "deployment"),
        ("InvalidMessage", 1, "validation"),
        # Raised by a send of the handler's own; a message that nobody handles never comes so far.
        ("UnknownMessage", 1, "non-retryable error"),
        ("NotRegistered", 1, "unknown task"),
        ("TimeLimitExceeded", 4, "timeout"),
        ("SoftTimeLimitExceeded", 1, "timeout"),
        ("Reject", 1, "rejected"),
    ],
)
def test_the_reason_follows_from_the_error_and_the_attempt(kind: str, attempt: int, reason: str) -> None:
    verdict = final_failure(Supervision(Retry(max_retries=3)), failure(kind, attempt))
    assert verdict.outcome == Dead(reason, f"{kind}: no", attempt)
    assert verdict.letter is not None
    assert verdict.letter.reason == reason


def test_an_error_that_is_not_repeated_is_final_at_the_last_attempt_too() -> None:
    last = replace(failure(attempt=4), final=True)
    assert Failure.from_wire(last.to_wire()) == last
    assert final_failure(Supervision(Retry(max_retries=3)), last).outcome.reason == "non-retryable error"
    assert final_failure(None, last).outcome.reason == "retries exhausted"


@pytest.mark.parametrize(
    ("on_error", "keeps_letter", "logs"),
    [
        (OnError.DEAD_LETTER, True, False),
        (OnError.RAISE, True, False),
        (OnError.LOG, False, True),
        (OnError.IGNORE, False, False),
    ],
)
def test_on_error_decides_what_is_kept_and_what_is_said(on_error: OnError, keeps_letter: bool, logs: bool) -> None:
    verdict = final_failure(Supervision(on_error=on_error), failure())
    assert (verdict.letter is not None, verdict.log) == (keeps_letter, logs)
    assert verdict.outcome.reason == "retries exhausted"


def test_the_letter_has_every_attempt_in_order() -> None:
    supervision = Supervision(Retry(max_retries=2)).after(failure("OSError", 1)).after(failure("KeyError", 2))
    verdict = final_failure(supervision, failure("ValueError", 3))
    assert verdict.letter is not None
    assert [(f.attempt, f.type) for f in verdict.letter.failures or ()] == [
        (1, "OSError"),
        (2, "KeyError"),
        (3, "ValueError"),
    ]
    assert (verdict.letter.error, verdict.letter.text, verdict.letter.attempts) == ("ValueError", "no", 3)


def test_a_plain_celery_task_that_fails_becomes_a_letter_too() -> None:
    verdict = final_failure(None, failure(attempt=1))
    assert verdict.outcome.reason == "retries exhausted"
    assert verdict.letter is not None


@pytest.mark.parametrize(
    ("message", "at", "kind", "reason", "keeps_letter"),
    [
        ("vote_on_Scale", "2026-01-01T00:00:02.010+00:00", "HandlerTimeout", "deadline passed", False),
        ("vote_on_Scale", "2026-01-01T00:00:02.010+00:00", "DeadlinePassed", "deadline passed", False),
        # Its own timeout, or an error of its own: somebody has to correct that.
        ("vote_on_Scale", "2026-01-01T00:00:01.000+00:00", "HandlerTimeout", "timeout", True),
        ("vote_on_Scale", "2026-01-01T00:00:02.010+00:00", "ValueError", "retries exhausted", True),
        ("Scale", "2026-01-01T00:00:02.010+00:00", "HandlerTimeout", "deadline passed", True),
        ("Scale", "2026-01-01T00:00:02.010+00:00", "ValueError", "retries exhausted", True),
    ],
)
def test_a_vote_that_comes_too_late_leaves_no_dead_letter(
    message: str, at: str, kind: str, reason: str, keeps_letter: bool
) -> None:
    supervision = Supervision(Retry(max_retries=0), agent="a", message=message, deadline_at_s=DEADLINE_AT_S)
    verdict = final_failure(supervision, replace(failure(kind, 1), at=at))
    assert (verdict.outcome.reason, verdict.letter is not None, verdict.log) == (reason, keeps_letter, False)


@pytest.mark.parametrize(
    ("at", "kind", "reason"),
    [
        ("2026-01-01T00:00:01.980+00:00", "HandlerTimeout", "deadline passed"),
        ("2026-01-01T00:00:05.000+00:00", "TimeLimitExceeded", "deadline passed"),
        ("2026-01-01T00:00:02.010+00:00", "SoftTimeLimitExceeded", "deadline passed"),
        # What it has called had the same deadline.
        ("2026-01-01T00:00:02.001+00:00", "DeliveryTimeout", "deadline passed"),
        # It was interrupted, and has failed at that.
        ("2026-01-01T00:00:02.000+00:00", "ValueError", "deadline passed"),
        ("2026-01-01T00:00:01.900+00:00", "ValueError", "retries exhausted"),
        # Its own timeout, which is shorter.
        ("2026-01-01T00:00:01.900+00:00", "HandlerTimeout", "timeout"),
        ("2026-01-01T00:00:01.900+00:00", "DeadlinePassed", "timeout"),
        ("2026-01-01T00:00:01.900+00:00", "DeliveryTimeout", "retries exhausted"),
        # The agent has to correct that.
        ("2026-01-01T00:00:02.010+00:00", "InvalidResult", "result not stored"),
    ],
)
def test_a_request_that_its_deadline_ends(at: str, kind: str, reason: str) -> None:
    request = Supervision(Retry(max_retries=0), OnError.IGNORE, "a", "M", deadline_at_s=DEADLINE_AT_S)
    verdict = final_failure(request, replace(failure(kind, 1), at=at))
    assert (verdict.outcome.reason, verdict.outcome.error, verdict.letter) == (reason, f"{kind}: no", None)
    assert final_failure(replace(request, ask=True), replace(failure(kind, 1), at=at)).outcome.reason == reason
