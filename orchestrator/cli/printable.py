"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime


def printable(text: str, *, keep: str = "") -> str:
    """The text with everything a terminal would act on, or cannot show, written as an escape."""
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """The text as one line."""
    return printable(" ".join(text.split()))


def lines(text: str) -> str:
    """The text with its lines kept."""
    return printable(text.replace("\t", "    "), keep="\n")


def age(seconds: float) -> str:
    """A duration, as precise as one reads it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(at_ms: int) -> str:
    """A moment, in UTC."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
