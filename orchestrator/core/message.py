"""`Message`: what agents are sent. A frozen pydantic model, JSON on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.core.errors import InvalidMessage


class Message(BaseModel):
    """Base of every message. Subclass it and annotate fields; instances never change.

    The class name is the message's name on the wire. Unknown fields are refused, so that a misspelt field is
    an error at the sender and a dead letter on the wire, never silence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=Message)


def message_name(message: type[Message]) -> str:
    """The message's name on the wire."""
    return message.__name__


def encode(message: Message) -> dict[str, Any]:
    """The message's fields as plain JSON data."""
    return message.model_dump(mode="json")


def decode(model: type[M], fields: Mapping[str, Any]) -> M:
    """Build a message from JSON data.

    Raises:
        InvalidMessage: the fields do not fit the model; names each offending field, its value and the rule.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidMessage(message_name(model), _problems(error)) from None


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"]) or "message"
        shown = repr(item["input"])
        problems.append(f"{where}={shown if len(shown) <= 80 else shown[:77] + '...'}: {item['msg']}")
    return problems
