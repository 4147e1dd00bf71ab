"""Finds the secret fields of a model. Their names travel with the message, so that every reader masks their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

#: Keywords of a JSON schema that map names to schemas.
_NAMED = ("properties", "$defs")


@cache
def secret_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The names under which the model's JSON data may hold secrets, those of nested models included, sorted.

    What has no schema might be one.
    """
    found: set[str] = set()
    try:
        for by_alias in (False, True):
            for mode in ("validation", "serialization") if by_alias else ("validation",):
                schema = model.model_json_schema(by_alias=by_alias, schema_generator=_Lenient, mode=mode)
                found.update(_names(schema, schema.get("$defs", {})))
    except (PydanticUserError, RecursionError):
        return tuple(sorted(model.model_fields))
    return tuple(sorted(found))


class _Lenient(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as the base class has it

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {"writeOnly": True}


def _names(node: Any, defs: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(node, list):
        for child in node:
            yield from _names(child, defs)
    elif isinstance(node, dict):
        for name, child in node.get("properties", {}).items():
            if _is_secret(child, defs, frozenset()):
                yield name
        for key, child in node.items():
            for inner in child.values() if key in _NAMED and isinstance(child, dict) else (child,):
                yield from _names(inner, defs)


def _is_secret(node: Any, defs: Mapping[str, Any], seen: frozenset[str]) -> bool:
    """Whether a value may be, or hold, a secret that no name of its own leads to."""
    if isinstance(node, list):
        return any(_is_secret(child, defs, seen) for child in node)
    if not isinstance(node, dict):
        return False
    if node.get("writeOnly") is True:
        return True
    to = str(node.get("$ref", "")).rpartition("/")[2]
    if to and to not in seen and _is_secret(defs.get(to), defs, seen | {to}):
        return True
    return any(_is_secret(child, defs, seen) for key, child in node.items() if key not in _NAMED)
