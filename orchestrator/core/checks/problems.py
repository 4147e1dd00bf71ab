"""Describes the invalid fields of a message, with their values unless these are secret."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.secrets.long_texts import shortened
from orchestrator.core.secrets.masked_repr import hidden_names
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import HIDDEN, redact
from orchestrator.core.secrets.secret_names import secret_names

#: Characters of a value that are shown, at most.
_LONGEST: Final = 80

#: pydantic's types of errors for a value that should be an object.
_NO_OBJECT: Final = ("model_type", "model_attributes_type", "dict_type", "dataclass_type", "mapping_type")


def problems_in(
    error: ValidationError,
    model: type[BaseModel],
    fields: Any,
    hidden: Iterable[str],
    counts: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> list[str]:
    """Each offending field with its value and the rule; of pydantic's errors those that ``counts`` is true of.

    Not shown are the values of fields that are secret in the model, in this process or in ``hidden``, of unknown fields
    with similar names, and values in the place of an object that may hold secrets.
    """
    secrets = secret_names(model)
    names = _names(hidden, secrets)
    values = sorted(set(_values(fields, names)), key=len, reverse=True)
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        if not counts(item):
            continue
        where = ".".join(str(part) for part in item["loc"]) or "message"
        unseen = _is_unseen(item, names, may_hold_secrets=bool(secrets))
        rule = _rule(_plain(item["msg"]), names, values)
        if item["type"] == "missing":
            # Its input is what is around it.
            problems.append(f"{where}: {rule}")
            continue
        shown = HIDDEN if unseen else repr(redact(item["input"], names))
        shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."
        problems.append(f"{where}={shown}: {rule}")
    return problems


def without_secrets(error: ValidationError, model: type[BaseModel], fields: Any) -> Exception:
    """Pydantic's error without the values that :func:`problems_in` does not show; the same error if it has none."""
    secrets = secret_names(model)
    names = _names((), secrets)
    values = sorted(set(_values(fields, names)), key=len, reverse=True)
    items, is_changed = [], False
    for item in error.errors(include_url=False):
        unseen = _is_unseen(item, names, may_hold_secrets=bool(secrets))
        shown = HIDDEN if unseen else redact(item["input"], names)
        rule = _rule(item["msg"], names, values)
        is_changed |= unseen or shown != item["input"] or rule != item["msg"]
        kind = PydanticCustomError(item["type"], "{rule}", {"rule": rule})
        items.append(InitErrorDetails(type=kind, loc=item["loc"], input=shown))
    return ValidationError.from_exception_data(error.title, items) if is_changed else error


def _names(hidden: Iterable[str], secrets: Iterable[str]) -> frozenset[str]:
    """The names of fields whose values are not shown, in lower case."""
    return frozenset(name.lower() for name in (*hidden, *hidden_names(), *secrets))


def _is_unseen(item: Any, names: Collection[str], *, may_hold_secrets: bool) -> bool:
    """Whether the value of one of pydantic's errors is not shown."""
    return (
        any(str(part).lower() in names for part in item["loc"])
        or (item["type"] == "extra_forbidden" and _nearly(str(item["loc"][-1]).lower(), names))
        or (may_hold_secrets and item["type"] in _NO_OBJECT and not isinstance(item["input"], Mapping))
    )


def _plain(rule: str) -> str:
    """The text of a user's validator, without pydantic's prefix."""
    return rule.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _nearly(name: str, names: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name, list(names), n=1))


def _rule(text: str, names: Iterable[str], values: Iterable[str]) -> str:
    """The rule in the model's words, without secrets: a user's validator may repeat the value."""
    for value in values:
        text = text.replace(value, HIDDEN)
    masked: str = mask(shortened(text), names)
    return masked


def _values(data: Any, names: frozenset[str], *, secret: bool = False) -> Iterator[str]:
    """The texts and numbers in the named fields, without those of 1 or 2 characters, which would match other text."""
    try:
        if isinstance(data, Mapping):
            for key, value in data.items():
                yield from _values(value, names, secret=secret or str(key).lower() in names)
        elif isinstance(data, list | tuple):
            for value in data:
                yield from _values(value, names, secret=secret)
        elif secret and (isinstance(data, str) or is_number(data)) and len(str(data)) > 2:
            yield str(data)
    except RecursionError:
        return
