"""Durations in seconds as the milliseconds that Redis' scripts count in."""

from __future__ import annotations


def to_ms(seconds: float) -> int:
    """Seconds as whole milliseconds, at least 0."""
    return max(0, round(seconds * 1000))
