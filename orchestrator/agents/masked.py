"""Masking secrets in the lines that Celery logs about a task: it prints what a handler raised."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from orchestrator.core.masking import mask
from orchestrator.core.supervision import hide_in

#: Loggers that print errors, tracebacks and messages as they are.
_LOGGERS: Final = (
    "celery.app.trace",
    "celery.worker.request",
    "celery.worker.consumer.consumer",
    "celery.pool",
    "orchestrator.agents.guard",
)

_format_exception = logging.Formatter().formatException


class Masked(logging.Filter):
    """Lets every record pass, with the values of the hidden fields masked in its text and its traceback."""

    def __init__(self, hidden: Iterable[str]) -> None:
        super().__init__()
        self.hidden = tuple(hidden)

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record."""
        try:
            text: str = record.getMessage()
        except Exception:  # noqa: BLE001
            # Whoever formats it will say so.
            return True
        hidden = self.hidden
        if isinstance(record.args, tuple):
            # Of a message that this worker does not know, Celery logs everything; its headers name its secrets.
            hidden = (*hidden, *(name for said in record.args for name in hide_in(said)))
        masked: Any = mask(text, hidden)
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters make this once and keep it here.
            record.exc_text = mask(record.exc_text or _format_exception(record.exc_info), hidden)
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            # What Celery says once more as fields, for who collects logs as JSON.
            record.data = mask(data, hidden)
        return True


def mask_logs(hidden: Iterable[str]) -> None:
    """Mask what these loggers say in this process from now on; more names may be added, none removed."""
    names = tuple(hidden)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, Masked) and known.hidden == names for known in logger.filters):
            logger.addFilter(Masked(names))
