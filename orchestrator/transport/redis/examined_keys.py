"""Looks through Redis for keys that something else has written at this library's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.key_types import TYPES, type_of
from orchestrator.core.keys import Keys

#: Keys that one command looks at, and how many are looked at of each type at most.
_PAGE: Final = 1000
_MOST: Final = 200_000

#: Keys that are named.
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class ExaminedKeys:
    """The keys of another type than this library keeps there: name, type and the type that it should be of."""

    broken: tuple[tuple[str, str, str], ...]
    #: Whether there are more keys than were looked at.
    has_more: bool


def examine_keys(call: Callable[..., Any], keys: Keys) -> ExaminedKeys:
    """Look at the types of the keys, each type in turn, without a command for each key.

    Raises:
        redis.exceptions.RedisError: Redis is away, or forbids SCAN.
    """
    broken: list[tuple[str, str, str]] = []
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
            if cursor in (b"0", "0") or len(broken) > _NAMED:
                break
            if looked_at >= _MOST:
                has_more = True
                break
    return ExaminedKeys(tuple(broken[:_NAMED]), has_more)
