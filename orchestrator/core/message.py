"""`Message`: the base class of messages to agents, a frozen pydantic model that is sent as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from orchestrator.core.checks.problems import problems_in, without_secrets
from orchestrator.core.errors import InvalidMessage
from orchestrator.core.secrets.masked_repr import masked
from orchestrator.core.secrets.secret_names import secret_names


class Message(BaseModel):
    """Base of every message. Subclass it and annotate fields; instances never change.

    The class name is the message's name on the wire. Unknown fields are refused, so that a misspelt field is
    an error at the sender and a dead letter on the wire, never silence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # Type checkers see the fields as arguments.

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise without_secrets(error, type(self), fields) from None

        # What pydantic builds from data does not call it.
        __init__.__pydantic_base_init__ = True

    def __repr__(self) -> str:
        return masked(super().__repr__(), secret_names(type(self)))

    def __str__(self) -> str:
        return masked(super().__str__(), secret_names(type(self)))


M = TypeVar("M", bound=Message)

#: In pydantic's description of a model: what may be a set.
_SETS: Final = re.compile(r"'type': '(?:set|frozenset|any)'")


def message_name(message: type[Message]) -> str:
    """The message's name on the wire."""
    return message.__name__


def encode(message: Message) -> dict[str, Any]:
    """The message's fields as plain JSON data, secrets included: the handler needs them."""
    fields: dict[str, Any] = message.model_dump(mode="json")
    if secret_names(type(message)) or _may_have_sets(type(message)):
        fields = _as_sent(fields, _dumped(message))
    return fields


def _dumped(model: BaseModel) -> Any:
    """A model as its class dumps it in Python; itself, if pydantic has no such dump, as of a set of models."""
    try:
        return model.model_dump()
    except (TypeError, PydanticSerializationError):
        return model


def _field(model: BaseModel, shown: str) -> Any:
    """A field by its name in JSON."""
    fields = type(model).model_fields
    name = next((name for name, info in fields.items() if info.serialization_alias == shown), shown)
    try:
        return model.model_dump(include={name}, by_alias=False)[name]
    except (TypeError, KeyError, PydanticSerializationError):
        return getattr(model, name, None)


@lru_cache(maxsize=1000)
def _may_have_sets(message: type[Message]) -> bool:
    return _SETS.search(repr(message.__pydantic_core_schema__)) is not None


def _as_sent(shown: Any, value: Any) -> Any:
    """``shown`` is ``value`` as JSON, with stars where pydantic hides a secret; these are replaced.

    Sets are sorted: equal messages have equal fields in all processes, although each has its own order of a set.
    """
    match value:
        case SecretStr() | SecretBytes() | Secret():
            return to_jsonable_python(value.get_secret_value())
        case dict() if isinstance(shown, dict) and len(shown) == len(value):
            return {k: _as_sent(s, v) for (k, s), v in zip(shown.items(), value.values(), strict=True)}
        case list() | tuple() if isinstance(shown, list) and len(shown) == len(value):
            return [_as_sent(s, v) for s, v in zip(shown, value, strict=True)]
        case set() | frozenset() if isinstance(shown, list) and len(shown) == len(value):
            members = [_as_sent(s, v) for s, v in zip(shown, value, strict=True)]
            return sorted(members, key=lambda member: json.dumps(member, sort_keys=True))
        case BaseModel() if isinstance(shown, dict):
            return {name: _as_sent(s, _field(value, name)) for name, s in shown.items()}
        case _:
            return shown


def decode(model: type[M], fields: Mapping[str, Any], *, hidden: Iterable[str] = ()) -> M:
    """Build a message from JSON data.

    Raises:
        InvalidMessage: the fields do not fit the model; names each offending field, its value and the rule.
            Values of fields in ``hidden``, and of those that the model says are secret, are not shown.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidMessage(message_name(model), problems_in(error, model, fields, hidden)) from None
