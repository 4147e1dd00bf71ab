"""Masks secrets in log lines about tasks: Celery logs the errors that handlers raise."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from orchestrator.core.checks.text import printable
from orchestrator.core.deliveries.supervision import hide_in
from orchestrator.core.log import with_escaped_errors
from orchestrator.core.secrets.long_texts import LONGEST, shortened
from orchestrator.core.secrets.masking import mask

#: Loggers that print errors, tracebacks and messages as they are.
_LOGGERS: Final = (
    "celery.app.trace",
    "celery.worker.request",
    "celery.worker.consumer.consumer",
    "celery.pool",
    "orchestrator.worker.bootsteps.dead_letter_unprocessable",
)

#: Characters of a line that are logged, at most; a traceback has its own limit.
_LONGEST: Final = 6 * LONGEST

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
            # The handler that formats the record reports this.
            return True
        hidden = self.hidden
        if isinstance(record.args, tuple):
            # Celery logs unknown messages whole; their headers name their secrets.
            hidden = (*hidden, *(name for argument in record.args for name in hide_in(argument)))
        masked: Any = mask(shortened(escaped, _LONGEST), hidden)
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters cache the traceback here.
            traceback = record.exc_text or _format_exception(record.exc_info)
            record.exc_text = mask(with_escaped_errors(traceback, record.exc_info), hidden)
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            # The same values as fields, for logs in JSON.
            record.data = mask(_short(data), hidden)
        return True


def _text(record: logging.LogRecord) -> str:
    """The record's text with line breaks of ids, names and errors escaped; a traceback keeps its own lines.

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


def _short(data: Any) -> Any:
    if isinstance(data, str):
        return shortened(data, 4 * LONGEST)
    if isinstance(data, dict):
        return {name: _short(value) for name, value in data.items()}
    return [_short(value) for value in data] if isinstance(data, list | tuple) else data


class _Printable:
    """Shows a value with its control characters as escapes."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(shortened(str(self._value)))

    def __repr__(self) -> str:
        return printable(shortened(repr(self._value)))


def mask_logs(hidden: Iterable[str]) -> None:
    """Mask these loggers' records in this process from now on. Names can be added by another call, not removed."""
    names = tuple(hidden)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, SecretMaskingFilter) and known.hidden == names for known in logger.filters):
            logger.addFilter(SecretMaskingFilter(names))
