"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations


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
