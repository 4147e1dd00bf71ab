"""Importing exported letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.errors import InvalidExport, InvalidMessage, MessageTooLarge
from orchestrator.deadletters.edit import Arguments
from orchestrator.deadletters.export import read_line
from orchestrator.deadletters.letter import FIELD_MESSAGE, read_letter
from orchestrator.deadletters.store import BATCH, LetterEditor, Row

#: Reasons of letters whose arguments are known to fit no task.
_MISFIT_REASONS = (Reason.MALFORMED, Reason.VALIDATION, Reason.UNKNOWN_TASK, Reason.UNKNOWN_MESSAGE)


def import_lines(
    store: LetterEditor,
    lines: Iterable[str | bytes],
    audit_id: str,
    arguments: Arguments,
    progress: Callable[[int], None] | None,
) -> tuple[int, int]:
    """Check lines and add their letters in batches; returns how many were added, and how many skipped.

    An empty ``audit_id`` means: check only.

    Raises:
        InvalidExport: a line is bad; the lines before it are imported.
    """
    added = skipped = 0
    rows: list[Row] = []

    def flush() -> None:
        nonlocal added, skipped
        if audit_id and rows:
            new = store.import_rows(rows, audit_id)
            added += len(new)
            skipped += len(rows) - len(new)
        if progress is not None:
            progress(len(rows))
        rows.clear()

    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = read_line(number, line)
                _check_row(number, row, store.max_message_bytes, arguments)
                rows.append(row)
            if len(rows) >= BATCH:
                flush()
    finally:
        flush()
    return added, skipped


def _check_row(number: int, row: Row, max_message_bytes: int, arguments: Arguments) -> None:
    """Check a message's size, and a plain task's arguments, unless the letter died because they do not fit.

    Raises:
        InvalidExport: the arguments do not fit, or the message is too large.
    """
    size = len(row[1].get(FIELD_MESSAGE, b""))
    if max_message_bytes and size > max_message_bytes:
        raise InvalidExport(number, str(MessageTooLarge(size, max_message_bytes)))
    letter = read_letter(*row)
    if letter.agent or letter.reason in _MISFIT_REASONS or letter.error_type == "TypeError":
        return
    match letter.body():
        case [list() as args, dict() as kwargs]:
            try:
                arguments.check(letter.task, args, kwargs)
            except InvalidMessage as error:
                raise InvalidExport(number, str(error)) from None
