"""Checks of text from other processes: JSON can hold text that UTF-8, which Redis gets, cannot."""

from __future__ import annotations

import re
from typing import Any, Final

#: What may be unprintable.
_NOT_PLAIN: Final = re.compile(r"[^ -~]+")


def is_text(value: Any) -> bool:
    """Whether the value is a text without lone surrogates, so that it can be sent."""
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
    """The text with each control or unprintable character written as an escape.

    The characters in ``keep`` stay as they are.
    """
    if text.isprintable():
        return text

    def escape(found: re.Match[str]) -> str:
        return "".join(
            c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in found[0]
        )

    return _NOT_PLAIN.sub(escape, text)
