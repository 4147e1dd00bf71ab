"""A call of a script, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

#: The script's name, its keys and its arguments.
Call: TypeAlias = tuple[str, list[str], list[Any]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One publish, as Redis recognises it when it is repeated because its reply was lost."""

    #: The hash in which its connection's last publish is recorded.
    key: str
    #: Begins with the connection's name.
    token: str


def flat(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values, alternating."""
    return [part for pair in fields.items() for part in pair]
