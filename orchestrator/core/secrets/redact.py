"""Replaces the values of secret fields in JSON data."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

HIDDEN = "**redacted**"

#: Names of fields that are secret by default.
USUAL = ("password", "secret", "token", "api_key", "authorization", "card_number")

#: Types whose values cannot contain a field.
_FLAT = frozenset({str, int, float, bool, type(None)})


def redact(value: Any, names: Iterable[str]) -> Any:
    """A copy of JSON data in which the values of the named fields are replaced by ``HIDDEN``, at any depth.

    Data nested too deeply for Python's recursion limit is replaced as a whole.
    """
    try:
        return _redact(value, _lower(tuple(names)))
    except RecursionError:
        return HIDDEN


@lru_cache(maxsize=64)
def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _redact(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            k: HIDDEN if str(k).lower() in names else v if type(v) in _FLAT else _redact(v, names)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [item if type(item) in _FLAT else _redact(item, names) for item in value]
    return value
