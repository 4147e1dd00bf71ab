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
