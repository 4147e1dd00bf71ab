"""Text from elsewhere, made harmless for a terminal."""

from __future__ import annotations

from orchestrator.core.checks.text import printable


def one_line(text: str) -> str:
    """The text as one line."""
    return printable(" ".join(text.split()))


def lines(text: str) -> str:
    """The text with its lines kept."""
    return printable(text.replace("\t", "    "), keep="\n")
