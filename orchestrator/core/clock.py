"""Milliseconds, the unit of Redis' scripts: of durations, and of this host's clock."""

from __future__ import annotations

import time


def to_ms(seconds: float) -> int:
    """Seconds as whole milliseconds, at least 0."""
    return max(0, round(seconds * 1000))


def now_ms() -> int:
    """This host's time, in milliseconds since 1970."""
    return round(time.time() * 1000)
