"""The one check of numbers: Python's ``bool`` is an ``int``, and a user who passes ``True`` did not mean 1."""

from __future__ import annotations

from typing import TypeGuard

from orchestrator.core.errors import InvalidPolicy


def is_number(value: object, low: float | None = None, high: float | None = None) -> TypeGuard[int | float]:
    """Whether the value is an int or a float, no bool, and within ``low`` and ``high``, which are allowed themselves.

    NaN is within no bounds.
    """
    # A tuple: a union would be made anew each time.
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return (low is None or low <= value) and (high is None or value <= high)


def is_whole_number(value: object, low: int | None = None, high: int | None = None) -> TypeGuard[int]:
    """Whether the value is an int, no bool, and within ``low`` and ``high``, which are allowed themselves."""
    return isinstance(value, int) and is_number(value, low, high)


def plain(number: float) -> str:
    """A number without an exponent, with at most three decimal places."""
    return f"{number:.3f}".rstrip("0").rstrip(".")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """The number as a float.

    Raises:
        InvalidPolicy: it is no number from ``low`` to ``high``.
    """
    if not is_number(value, low, high):
        raise InvalidPolicy(name, value, f"a number from {plain(low)} to {plain(high)}")
    return float(value)


def check_whole_number(name: str, value: object, low: int, high: int) -> int:
    """The whole number.

    Raises:
        InvalidPolicy: it is no whole number from ``low`` to ``high``.
    """
    if not is_whole_number(value, low, high):
        raise InvalidPolicy(name, value, f"a whole number from {low} to {high}")
    return value
