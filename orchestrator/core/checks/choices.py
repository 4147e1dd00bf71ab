"""The one check of what is one of a few names, or true or false. What a user gives may be anything."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from orchestrator.core.errors import InvalidPolicy

_Choice = TypeVar("_Choice", bound=StrEnum)


def check_choice(name: str, choices: type[_Choice], value: object) -> _Choice:
    """The member of an enumeration that a value is or names.

    Raises:
        InvalidPolicy: there is none.
    """
    # An enumeration that is asked for anything but a text compares it with each member, and shows it.
    if isinstance(value, str):
        for choice in choices:
            if value == choice.value:
                return choice
    raise InvalidPolicy(name, value, ", ".join(choices))


def check_bool(name: str, value: object) -> bool:
    """The value, if it is true or false.

    Raises:
        InvalidPolicy: it is anything else.
    """
    if not isinstance(value, bool):
        raise InvalidPolicy(name, value, "True or False")
    return value
