"""Durations (``1h30m``) and moments (``2026-11-28 16:10:28Z``) as text for operators."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

#: Units from the largest; each with the seconds it has.
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60))

#: Below this many of a unit, the next smaller unit is shown too.
_FEW: Final = 10

_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}

_PART: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|min|[dhms])")

_NUMBER: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")


def age(seconds: float) -> str:
    """A duration: ``0.4s``, ``42s``, ``1m30s``, ``1h``, ``1h30m``, ``2d``."""
    if not math.isfinite(seconds):
        return "unknown"
    seconds = max(0.0, seconds)
    if seconds < _FEW:
        tenths = f"{seconds:.1f}".removesuffix(".0")
        return f"{tenths}s"
    whole = int(seconds)
    for place, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            count, rest = divmod(whole, size)
            smaller, smaller_size = _UNITS[place + 1] if place + 1 < len(_UNITS) else ("s", 1)
            more = rest // smaller_size
            return f"{count}{unit}{more}{smaller}" if count < _FEW and more else f"{count}{unit}"
    return f"{whole}s"


def duration(text: str) -> float:
    """Inverse of :func:`age`: seconds from ``90``, ``1.5h``, ``1h30m``, ``2d``, ``500ms``.

    Raises:
        ValueError: the text is no duration.
    """
    if number := _NUMBER.fullmatch(text):
        return float(number[1])
    total, at = 0.0, 0
    while part := _PART.match(text, at):
        total += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    if not at or text[at:].strip():
        raise ValueError(f"{text!r} is not a duration; allowed: seconds, or as 500ms, 90s, 5m, 1h30m, 2d")
    return total


def moment(at_ms: int) -> str:
    """A moment given in ms since 1970, in UTC."""
    try:
        return _text(datetime.fromtimestamp(at_ms / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{at_ms}ms"


def moment_of(iso: str) -> str:
    """A moment given in ISO 8601; other text is returned unchanged."""
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return _text(at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC))


def _text(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
