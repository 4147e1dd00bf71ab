"""Loggers whose records are one line each.

The text of an error, the name of an agent and the id of a message come from other processes. A newline in one would
forge a line of the log; an escape sequence would reach the operator's terminal.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType

from orchestrator.core.checks.text import printable
from orchestrator.core.secrets.long_texts import error_chain, shortened, with_short_errors

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLine(logging.Filter):
    """Lets every record pass, with control characters in its text written as escapes.

    A traceback keeps its lines, but an error's own text in it is one line too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape what is not printable in the record."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001
            # The handler that formats the record reports this.
            return True
        if not text.isprintable():
            record.msg, record.args = printable(text), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = with_escaped_errors(
                record.exc_text or logging.Formatter().formatException(record.exc_info), record.exc_info
            )
        return True


def get_logger(name: str) -> logging.Logger:
    """The logger of that name; its records are one line each."""
    logger = logging.getLogger(name)
    if not any(isinstance(known, OneLine) for known in logger.filters):
        logger.addFilter(OneLine())
    return logger


def with_escaped_errors(traceback: str, exc_info: _ExcInfo) -> str:
    """A formatted traceback in which each error's own text is one line, and not too long."""
    traceback = with_short_errors(traceback, exc_info[1])
    for error in error_chain(exc_info[1]):
        try:
            text = shortened(str(error))
        except Exception:  # noqa: BLE001, S112
            continue
        # Only after the error's name: a text of white space is found in any traceback.
        traceback = _escaped(traceback, ": ", text)
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, str) and not note.isspace():
                traceback = _escaped(traceback, "\n", shortened(note))
    # In a group's traceback the lines of an error's text are indented: they stay, without control characters.
    return printable(traceback, keep="\n\t")


def _escaped(traceback: str, before: str, text: str) -> str:
    if text.isprintable():
        return traceback
    escaped = before + printable(text)
    return re.sub(re.escape(before + text) + r"(?=\n|$)", lambda _: escaped, traceback)
