"""What becomes of a delivery whose last attempt has failed."""

from dataclasses import replace

import pytest

from orchestrator.core.outcome import Dead
from orchestrator.core.policy import OnError, Retry
from orchestrator.core.supervision import Failure, Supervision
from orchestrator.worker.verdict import final_failure


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
