"""Masks secrets in text: ``name=value`` and ``"name": value`` for secret names, and the password of a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from orchestrator.core.secrets.redact import HIDDEN

#: The forms of a value in text; each may have been cut off at the end.
_VALUE = "|".join(
    (
        r"(?:Bearer|Basic)\s+\S+",
        r'"(?:[^"\\]|\\.)*"?',
        r"'(?:[^'\\]|\\.)*'?",
        r"\[[^\]]*\]?",
        r"\{[^}]*\}?",
        # A word without the colon that may follow it.
        r"[^\s,;&)}\]]+?(?=:?(?:[\s,;&)}\]]|$))",
    )
)

#: The password of a URL, up to its "@"; a path may have one as well.
_URL_PASSWORD = re.compile(r"""(://[^\s:@/?#"']*:)[^\s@/?#"']+(?=@)""")


_LINES = re.IGNORECASE | re.DOTALL | re.MULTILINE


def mask(value: Any, names: Iterable[str]) -> Any:
    """A copy of JSON data in whose texts ``name=value`` and ``"name": value`` are hidden for the named fields.

    So are passwords in URLs, unless there are no names.
    """
    names = list(names)
    if not names:
        return value
    known = "|".join(re.escape(name) for name in names)
    # The name, with optional quotes (escaped ones within a quoted text), and ":" or "=".
    key = rf"""(?<![A-Za-z0-9_])((?:{known})(?:\\*["'])?\s*[:=]\s*)"""
    pattern = re.compile(f"{key}({_VALUE})", re.IGNORECASE | re.DOTALL)
    # Pydantic's errors have the field's name in a line of its own.
    rejected = re.compile(
        rf"(^(?:[^\s.]+\.)*(?:{known})(?:\.[^\s.]+)*\n[^\n]*\binput_value=)(.*?)(?=, input_type=)", _LINES
    )
    try:
        return _mask(value, (pattern, rejected))
    except RecursionError:
        return HIDDEN


def _mask(value: Any, patterns: tuple[re.Pattern[str], ...]) -> Any:
    if isinstance(value, str):
        hidden = value
        for pattern in patterns if "input_value=" in value else patterns[:1]:
            hidden = pattern.sub(rf"\1{HIDDEN}", hidden)
        return _URL_PASSWORD.sub(rf"\1{HIDDEN}", hidden) if "://" in hidden else hidden
    if isinstance(value, dict):
        return {k: _mask(v, patterns) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(item, patterns) for item in value]
    return value
