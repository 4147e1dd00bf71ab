"""The record of a failed attempt: its error and traceback, masked and cut."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from celery.exceptions import Reject

from orchestrator.core.deliveries.supervision import Failure
from orchestrator.core.secrets.long_texts import shortened, with_short_errors
from orchestrator.core.secrets.masking import mask
from orchestrator.transport.letter_draft import MESSAGE_LIMIT

#: Characters of a traceback that are kept: its last ones.
TRACEBACK_LIMIT: Final = 8000


def failure_of(error: BaseException, attempt: int, by: str, hidden: Iterable[str], stack: str | None = None) -> Failure:
    """The record of a failed attempt; ``stack`` is its traceback if the error has none.

    The values of the ``hidden`` fields are masked in both texts before these are cut to what is kept, because a cut may
    separate a name from its value.
    """
    names = tuple(dict.fromkeys(hidden))
    if stack is None:
        stack = "".join(traceback.format_exception(error))
    message, stack = mask([shortened(_text_of(error)), with_short_errors(stack, error)], names)
    return Failure(
        attempt=attempt,
        type=type(error).__name__,
        message=message[:MESSAGE_LIMIT],
        traceback=stack[-TRACEBACK_LIMIT:],
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        by=by,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error.reason if isinstance(error, Reject) else error)
    except Exception:  # noqa: BLE001
        # A broken __str__ must not cost the message its outcome.
        return f"<{type(error).__name__} without text>"
