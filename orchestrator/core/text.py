"""Texts from elsewhere: JSON can say what no UTF-8 can, and what goes to Redis is UTF-8."""

from __future__ import annotations

from typing import Any


def is_text(value: Any) -> bool:
    """Whether it is a text that can be sent, without half a surrogate pair in it."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str, *, keep: str = "") -> str:
    """The text with every character that a terminal acts on, or cannot show, written as an escape.

    The characters in ``keep`` stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)
