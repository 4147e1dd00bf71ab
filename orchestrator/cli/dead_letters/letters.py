"""Dead letters as they are shown: without secrets, and with whatever can be read of the message."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.core.deliveries.supervision import header_in
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import redact
from orchestrator.deadletters.letter import DeadLetter


def letter_document(letter: DeadLetter, hidden: tuple[str, ...]) -> dict[str, Any]:
    """Everything about the letter but the message's envelope, as JSON data."""
    return letter.shown(hidden)


def raw_message(letter: DeadLetter, hidden: tuple[str, ...]) -> Any:
    """The message as it lay in its mailbox: JSON data with the body decoded, or text if it cannot be read."""
    hidden = letter.hidden(hidden)
    try:
        envelope = json.loads(letter.raw)
    except (ValueError, RecursionError):
        # What it means is unknown, but what it looks like is not.
        return mask(letter.raw.decode("utf-8", "backslashreplace"), hidden)
    if isinstance(envelope, dict):
        body = letter.body()
        if body is not None:
            envelope["body"] = body
        supervision = header_in(envelope.get("headers"))
        if supervision is not None:
            # The letter has them as well.
            supervision.pop("failures", None)
    return mask(redact(envelope, hidden), hidden)
