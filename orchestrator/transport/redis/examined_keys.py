"""Looks through Redis for keys that something else has written at this library's names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.key_types import TYPES, type_of
from orchestrator.core.keys import Keys
from orchestrator.core.stored_values import SET_ASIDE, stored_text, whole_number

#: Keys that one command looks at, and how many are looked at of each type at most.
_PAGE: Final = 1000
_MOST: Final = 200_000

#: Keys that are named.
_NAMED: Final = 20

#: Hashes of which each field is a whole number, by the beginnings of their names after the root.
_COUNTERS: Final = ("ledger:", "calls:", "monitor-stats", "schedules:ledger", "coordination-counts", "runs:open")

#: Hashes of which each field is JSON.
_RECORDS: Final = ("agents", "schedules", "schedules:broken", "hierarchies", "down-supervision", "letters:kind-names")

#: Hashes whose fields are looked at, and how many fields of one.
_MOST_HASHES: Final = 1000
_MOST_FIELDS: Final = 1000

#: Characters of a value that are shown.
_LONGEST_VALUE: Final = 40


@dataclass(frozen=True, slots=True)
class ExaminedKeys:
    """The keys of another type than this library keeps there: name, type and the type that it should be of."""

    broken: tuple[tuple[str, str, str], ...]
    #: Fields that hold something else than this library writes there: key, field, value and what is needed.
    unreadable: tuple[tuple[str, str, str, str], ...]
    #: Whether there are more keys than were looked at.
    has_more: bool


def examine_keys(call: Callable[..., Any], keys: Keys) -> ExaminedKeys:
    """Look at the types of the keys, each type in turn, without a command for each key.

    Raises:
        redis.exceptions.RedisError: Redis is away, or forbids SCAN.
    """
    broken: list[tuple[str, str, str]] = []
    unreadable: list[tuple[str, str, str, str]] = []
    looked_into = 0
    pattern, has_more = re.sub(r"([\\*?\[\]^-])", r"\\\1", keys.root) + "*", False
    for found in TYPES:
        cursor, looked_at = b"0", 0
        while True:
            cursor, names = call("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE, "TYPE", found)
            looked_at += _PAGE
            for raw in names:
                name = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
                needed = type_of(keys, name)
                if needed not in ("", found):
                    broken.append((name, found, needed))
                elif found == "hash" and looked_into < _MOST_HASHES and len(unreadable) < _NAMED:
                    fits = _needed_in(name.removeprefix(keys.root))
                    looked_into += fits is not None
                    if fits is not None:
                        unreadable += _unreadable_in(call, raw, name, *fits)
            if cursor in (b"0", "0") or len(broken) > _NAMED:
                break
            if looked_at >= _MOST:
                has_more = True
                break
    return ExaminedKeys(tuple(broken[:_NAMED]), tuple(unreadable[:_NAMED]), has_more)


def _needed_in(own: str) -> tuple[str, Callable[[str], bool]] | None:
    """What each field of a hash holds: in words, and whether a text is that; ``None`` if it is not looked into."""
    if own in _RECORDS:
        return "JSON", _is_json
    if own in _COUNTERS or own.startswith(tuple(name for name in _COUNTERS if name.endswith(":"))):
        return "a whole number", lambda text: whole_number(text) is not None
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _unreadable_in(
    call: Callable[..., Any], raw: Any, key: str, needed: str, fits: Callable[[str], bool]
) -> Iterator[tuple[str, str, str, str]]:
    _, flat = call("HSCAN", raw, 0, "COUNT", _MOST_FIELDS)
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    for name, value in pairs:
        field, text = stored_text(name), stored_text(value)
        if field.startswith(SET_ASIDE) or not fits(text):
            yield key, field, text[:_LONGEST_VALUE], needed
