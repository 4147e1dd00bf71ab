"""Checks of what users name, wait for and count, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orchestrator.core.checks.numbers import check_number, check_whole_number
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import InvalidPolicy

#: Longest allowed wait: a day.
LONGEST_WAIT_S: Final = 86_400

_LONGEST_NAME: Final = 200
_MOST_PERMITS: Final = 10_000
_MOST_RESOURCES: Final = 1000
_LONGEST_LIMIT_S: Final = 365 * 86_400


def checked_name(name: object, what: str = "name") -> str:
    """A name.

    Raises:
        InvalidPolicy: it is no text of moderate length that can be printed.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InvalidPolicy(what, name, f"a text of 1 to {_LONGEST_NAME} characters that can be printed")
    return name


def checked_wait_s(wait_s: object) -> float:
    """A time to wait: a number from 0 to a day.

    Raises:
        InvalidPolicy: it is none.
    """
    return check_number("wait_s", wait_s, 0, LONGEST_WAIT_S)


def checked_limit_ms(limit_s: object) -> int:
    """A limit in ms, from a millisecond to a year; 0 for ``None``.

    Raises:
        InvalidPolicy: it is no such number.
    """
    return 0 if limit_s is None else to_ms(check_number("limit_s", limit_s, 0.001, _LONGEST_LIMIT_S))


def checked_permits(permits: object) -> int:
    """A number of permits.

    Raises:
        InvalidPolicy: it is not a whole number of at least 1.
    """
    return check_whole_number("permits", permits, 1, _MOST_PERMITS)


def checked_resources(resources: object) -> tuple[str, ...]:
    """The names of a pool's resources, in one order: users of a pool may name them in any.

    Raises:
        InvalidPolicy: there is none, one is no name, or two are the same.
    """
    if isinstance(resources, str) or not isinstance(resources, Iterable):
        raise InvalidPolicy("resources", resources, f"1 to {_MOST_RESOURCES} different names")
    names = tuple(resources)
    for name in names:
        checked_name(name, "resource")
    if not 0 < len(names) <= _MOST_RESOURCES or len(set(names)) < len(names):
        raise InvalidPolicy("resources", list(names[:20]), f"1 to {_MOST_RESOURCES} different names")
    return tuple(sorted(names))
