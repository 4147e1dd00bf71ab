"""The texts of a message's arguments, as logs, events and Flower show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.core.secrets.redact import redact
from orchestrator.sending.messages.outgoing_message import OutgoingMessage

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
    # Lists are asked for first: whether a value is a Mapping takes Python ten times as long.
    plain = arguments if type(arguments) in (list, dict) else _plain(arguments)
    if not plain:
        return "{}" if isinstance(plain, dict) else "()"
    text = repr(redact(plain, hidden))
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def _plain(arguments: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    return dict(arguments) if isinstance(arguments, Mapping) else list(arguments)
