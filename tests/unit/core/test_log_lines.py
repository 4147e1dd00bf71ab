"""Nothing that comes from elsewhere begins a line of its own in a log, or reaches a terminal as a control character."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from celery.worker.consumer.consumer import INVALID_TASK_ERROR

from orchestrator.core.checks.text import printable
from orchestrator.core.log import get_logger
from orchestrator.telemetry.emit import Event
from orchestrator.telemetry.logs import LOGGER, EventLog
from orchestrator.worker.masked_logs import mask_logs

FORGED = "broke\n[2026-01-01 00:00:00,000: ERROR/MainProcess] all letters purged\x1b[2J\r"


class Log:
    """What loggers have written, as a file has it."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(logging.Formatter("[log] %(message)s"))

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def assert_nothing_forged(self) -> None:
        assert "all letters purged" in self.text
        assert "\x1b" not in self.text
        assert "\r" not in self.text
        assert not any(line.startswith("[2026") for line in self.text.splitlines())


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    root = logging.getLogger()
    root.addHandler(log.handler)
    yield log
    root.removeHandler(log.handler)


def test_a_record_of_ours_is_one_line(log: Log) -> None:
    get_logger("orchestrator.test").warning("agent %s: %s", FORGED, ValueError(FORGED))
    log.assert_nothing_forged()
    assert len(log.text.splitlines()) == 1
    assert printable(FORGED) in log.text


def test_a_traceback_keeps_its_lines_and_no_others(log: Log) -> None:
    try:
        try:
            raise KeyError(FORGED)
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError(FORGED), error]) from RuntimeError(FORGED)
    except ExceptionGroup:
        get_logger("orchestrator.test").exception("failed")
    log.assert_nothing_forged()
    assert "Traceback (most recent call last):\n" in log.text
    assert "RuntimeError: broke\\n[2026" in log.text


@pytest.mark.parametrize("text", ["\n", "\r\n", " \n ", "\n\n", "\t", "\x1b", "\n    ", "\n\x1b[2J", "\n  File ", ""])
def test_an_error_of_control_characters_leaves_the_rest_of_its_traceback(log: Log, text: str) -> None:
    """Regression: each newline of the traceback was replaced, because it was found in the error's text."""
    mask_logs(())
    try:
        raise KeyError("why") from ValueError(text)
    except KeyError as error:
        context = {"traceback": "".join(traceback.format_exception(error)), "exc": repr(error)}
        get_logger("orchestrator.test").exception("failed")
        logging.getLogger("celery.app.trace").error("Task raised: %(exc)s\n%(traceback)s", context, exc_info=True)
    assert log.text.count("Traceback (most recent call last):\n") == 3
    assert log.text.count('    raise KeyError("why") from ValueError(text)\n') == 3
    assert log.text.count("KeyError: 'why'\n") == 3
    said = printable(text) if text.strip() or not text else "ValueError"
    assert log.text.count(said) >= 3
    assert "\x1b" not in log.text


def test_only_the_error_s_own_text_is_escaped(log: Log) -> None:
    text = "\n\nThe above exception was the direct cause of the following exception:\n\n"
    try:
        raise KeyError("why") from ValueError(text)
    except KeyError:
        get_logger("orchestrator.test").exception("failed")
    assert f"ValueError: {printable(text)}{text}Traceback" in log.text


def test_a_note_forges_no_line(log: Log) -> None:
    error = ValueError("broke")
    error.add_note(FORGED)
    get_logger("orchestrator.test").error("failed", exc_info=error)
    log.assert_nothing_forged()


def test_an_event_is_one_line(log: Log) -> None:
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    EventLog()(Event("dead_letter.added", {}, {"agent": "a", "error": FORGED}))
    log.assert_nothing_forged()
    assert len(log.text.splitlines()) == 1


CELERYS: dict[str, tuple[str, Any]] = {
    "an invalid message": (INVALID_TASK_ERROR, (ValueError(FORGED), FORGED)),
    "a received task": ("Task %(name)s[%(id)s] received", ({"name": FORGED, "id": FORGED},)),
}


@pytest.mark.parametrize("case", CELERYS)
def test_a_line_of_celerys_worker_is_not_forged_by_what_a_message_says(log: Log, case: str) -> None:
    mask_logs(())
    text, args = CELERYS[case]
    logging.getLogger("celery.worker.consumer.consumer").error(text, *args)
    log.assert_nothing_forged()


def test_a_failed_tasks_error_text_forges_no_line(log: Log) -> None:
    mask_logs(())
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        context = {"traceback": f"Traceback (most recent call last):\nValueError: {error}\n", "exc": repr(error)}
        logging.getLogger("celery.app.trace").error("Task raised: %(exc)s\n%(traceback)s", context, exc_info=True)
    log.assert_nothing_forged()
    assert log.text.count("Traceback (most recent call last):\n") == 2
