"""Long texts of errors are cut before they are searched for secrets, and no cut shows a part of one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from orchestrator.core.checks.problems import problems_in
from orchestrator.core.secrets.long_texts import LONGEST
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.transport.letter_draft import MESSAGE_LIMIT
from orchestrator.worker.execution.failure_record import TRACEBACK_LIMIT, failure_of
from orchestrator.worker.masked_logs import SecretMaskingFilter

#: Searched whole, it takes more than 2 s.
HUGE = 4_000_000

NAMES = ("card", "token", "password")


@contextmanager
def soon() -> Iterator[None]:
    """In little time of this process' own, however busy the machine is."""
    began_s = time.process_time()
    yield
    assert time.process_time() - began_s < 1.5


def raised(text: str, note: str = "") -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        if note:
            error.add_note(note)
        return error


def caused(text: str) -> Exception:
    try:
        raise KeyError("outer") from raised(text)
    except KeyError as error:
        return error


def grouped(text: str) -> Exception:
    return ExceptionGroup("several", [raised(text), raised("short")])


def recorded(error: BaseException) -> logging.LogRecord:
    """As Celery logs a failed task."""
    exc_info = (type(error), error, error.__traceback__)
    fields = {"exc": repr(error), "traceback": "".join(logging.Formatter().formatException(exc_info))}
    record = logging.LogRecord("x", logging.ERROR, "", 0, "raised: %(exc)s\n%(traceback)s", (fields,), exc_info)
    record.data = dict(fields)
    assert SecretMaskingFilter(NAMES).filter(record)
    return record


def shown_by_a_log(error: BaseException) -> str:
    record = recorded(error)
    return f"{record.getMessage()} {record.exc_text} {getattr(record, 'data', '')}"


@pytest.mark.parametrize("make", [raised, caused, grouped, lambda text: raised("x", note=text)])
@pytest.mark.parametrize("filler", ["x", 79 * "x" + "\n", "\x1b[1m", "ж "])
def test_a_huge_error_costs_little(make: Callable[[str], Exception], filler: str) -> None:
    """Regression: 0.6 s for each megabyte, in which no other thread runs."""
    error = make(filler * (HUGE // len(filler)) + " token=4242")
    with soon():
        failure = failure_of(error, 1, "w", NAMES)
    assert len(failure.message) <= MESSAGE_LIMIT
    assert len(failure.traceback) <= TRACEBACK_LIMIT
    with soon():
        shown = shown_by_a_log(error)
    assert len(shown) < HUGE / 4


def test_what_is_left_of_a_huge_error_says_how_long_it_was() -> None:
    failure = failure_of(raised("x" * HUGE), 1, "w", NAMES)
    assert failure.traceback.rstrip().endswith(f"… ({HUGE} characters)")


FORMS = ["card={}", "card: {}", '"card": "{}', "'card': '{}", "card=[{}", "card={{{}", "card=Bearer {}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [raised, caused, grouped, lambda text: raised("x", note=text)])
@pytest.mark.parametrize("limit", [0, MESSAGE_LIMIT, LONGEST])
def test_no_cut_shows_a_part_of_a_secret(make: Callable[[str], Exception], form: str, limit: int) -> None:
    for before in {0, *range(max(limit - 20, 0), limit + 4)}:
        for length in (40, LONGEST, 5 * LONGEST):
            error = make("x" * before + " " + form.format("4242" * (length // 4)))
            failure = failure_of(error, 1, "w", NAMES)
            assert "4242" not in failure.message
            assert "4242" not in failure.traceback
            if length == 40:
                assert "4242" not in shown_by_a_log(error)


@pytest.mark.parametrize("form", FORMS)
def test_nor_does_a_repr(form: str) -> None:
    for before in range(150, 210):
        assert "4242" not in masked_repr("x" * before + " " + form.format("4242" * 5000), NAMES)
    with soon():
        assert len(masked_repr("x" * HUGE, NAMES)) <= 202


class Order(BaseModel):
    card: str = ""

    @field_validator("card")
    @classmethod
    def _refuse(cls, value: str) -> str:
        raise ValueError(f"{'x' * HUGE} {value}")


def test_nor_does_a_rule_that_repeats_the_value() -> None:
    data: dict[str, Any] = {"card": "4242" * 10}
    with pytest.raises(ValidationError) as refused:
        Order.model_validate(data)
    with soon():
        (problem,) = problems_in(refused.value, Order, data, NAMES)
    assert "4242" not in problem
    assert len(problem) < 2 * LONGEST
