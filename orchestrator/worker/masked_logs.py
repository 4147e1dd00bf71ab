"""Masking secrets in the lines that Celery logs about a task: it prints what a handler raised."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from orchestrator.core.log import with_escaped_errors
from orchestrator.core.masking import mask
from orchestrator.core.supervision import hide_in
from orchestrator.core.text import printable

#: Loggers that print errors, tracebacks and messages as they are.
_LOGGERS: Final = (
    "celery.app.trace",
    "celery.worker.request",
    "celery.worker.consumer.consumer",
    "celery.pool",
    "orchestrator.worker.dead_letter_unprocessable",
)

_format_exception = logging.Formatter().formatException


class SecretMaskingFilter(logging.Filter):
    """Lets every record pass, with the values of the hidden fields masked in its text and its traceback."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__()
        self.hidden = tuple(hidden)

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record."""
        try:
            text, escaped = record.getMessage(), _text(record)
        except Exception:  # noqa: BLE001
            # Whoever formats it will say so.
            return True
        hidden = self.hidden
        if isinstance(record.args, tuple):
            # Of a message that this worker does not know, Celery logs everything; its headers name its secrets.
            hidden = (*hidden, *(name for said in record.args for name in hide_in(said)))
        masked: Any = mask(escaped, hidden)
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters make this once and keep it here.
            traceback = record.exc_text or _format_exception(record.exc_info)
            record.exc_text = mask(with_escaped_errors(traceback, record.exc_info), hidden)
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            # What Celery says once more as fields, for who collects logs as JSON.
            record.data = mask(data, hidden)
        return True


def _text(record: logging.LogRecord) -> str:
    """What Celery logs, without the lines that ids, names and errors bring along; a traceback keeps its own.

    Raises:
        Exception: the record's arguments do not fit its message.
    """
    fields = record.args
    if isinstance(fields, dict):
        traceback = fields.get("traceback")
        safe: dict[str, Any] = {name: _Printable(value) for name, value in fields.items()}
        if isinstance(traceback, str):
            exc_info = record.exc_info or (None, None, None)
            safe["traceback"] = with_escaped_errors(traceback, exc_info)
        return str(record.msg) % safe
    if isinstance(fields, tuple) and fields:
        return str(record.msg) % tuple(f if isinstance(f, int | float) else _Printable(f) for f in fields)
    return record.getMessage()


class _Printable:
    """Shows a value with its control characters as escapes."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(str(self._value))

    def __repr__(self) -> str:
        return printable(repr(self._value))


def mask_logs(hidden: Iterable[str]) -> None:
    """Mask what these loggers say in this process from now on; more names may be added, none removed."""
    names = tuple(hidden)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, SecretMaskingFilter) and known.hidden == names for known in logger.filters):
            logger.addFilter(SecretMaskingFilter(names))
