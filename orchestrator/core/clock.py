"""The one function that says what a duration in seconds is on Redis' wire."""

from __future__ import annotations


def to_ms(seconds: float) -> int:
    """Whole milliseconds, never below zero; Redis' scripts count in them."""
    return max(0, round(seconds * 1000))
