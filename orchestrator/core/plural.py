"""A count with its noun in the singular or plural."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 dead letter``, ``2 dead letters``; ``plural`` is for nouns that take more than an *s*."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
