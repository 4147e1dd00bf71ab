"""What is recorded of a failed attempt holds no value of a hidden field."""

from __future__ import annotations

from orchestrator.core.secrets.redact import HIDDEN
from orchestrator.transport.letter_draft import MESSAGE_LIMIT
from orchestrator.worker.execution.failure_record import failure_of


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_the_text_and_the_traceback_are_masked() -> None:
    failure = failure_of(raised("declined card=4242 token=abc"), 1, "w", ("card", "token"))
    assert failure.message == f"declined card={HIDDEN} token={HIDDEN}"
    assert "4242" not in failure.traceback
    assert "test_secrets_in_failures" in failure.traceback


def test_a_cause_is_masked_too() -> None:
    try:
        raise KeyError("outer") from raised("card=4242")
    except KeyError as error:
        failure = failure_of(error, 1, "w", ("card",))
    assert "4242" not in failure.traceback
    assert HIDDEN in failure.traceback


def test_a_traceback_that_comes_as_text_is_masked() -> None:
    assert "4242" not in failure_of(ValueError("x"), 1, "w", ("card",), "ValueError: card=4242").traceback


def test_a_value_is_masked_before_its_name_is_cut_off() -> None:
    text = "card=" + "4242" * MESSAGE_LIMIT + "!"
    failure = failure_of(raised(text), 1, "w", ("card",))
    assert "4242" not in failure.message
    assert "4242" not in failure.traceback.replace(__file__, "")
