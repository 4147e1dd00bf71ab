"""The texts of a message's arguments, as logs, events and Flower show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.core.redact import redact
from orchestrator.sending.outgoing_message import OutgoingMessage

#: Longest text of a message's arguments, in characters; Celery's own limit.
_MAX_CHARACTERS: Final = 1024


def reprs_of(outgoing: OutgoingMessage, hidden: tuple[str, ...]) -> tuple[str, str]:
    """The texts of a message's arguments and keyword arguments."""
    names = hidden_in(outgoing, hidden)
    return arguments_text(outgoing.args, names), arguments_text(outgoing.kwargs, names)


def hidden_in(outgoing: OutgoingMessage, hidden: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the fields that are masked in a message: those ``hidden`` in all, and its own secrets."""
    hide = outgoing.supervision.hide
    return (*hidden, *hide) if hide else hidden


def arguments_text(arguments: Sequence[Any] | Mapping[str, Any], hidden: tuple[str, ...]) -> str:
    """The text of one message's arguments."""
    if not arguments:
        return "{}" if isinstance(arguments, Mapping) else "()"
    text = repr(redact(dict(arguments) if isinstance(arguments, Mapping) else list(arguments), hidden))
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
