"""Short reprs without secrets, for values in logs, tracebacks and consoles."""

from __future__ import annotations

from collections.abc import Iterable
from math import log10
from typing import Any, Final

from orchestrator.core.secrets.long_texts import shortened
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import HIDDEN, USUAL, redact

#: Characters of one value that a repr shows, at most.
_LONGEST: Final = 200

#: Characters of the name of a value's class, if its repr cannot be shown.
_LONGEST_NAME: Final = 100

#: Names of fields whose values no repr shows, of every Orchestrator in this process. Names are only added.
_hidden: set[str] = set(USUAL)


def hide_in_reprs(names: Iterable[str]) -> None:
    """Have no repr in this process show the values of fields with these names."""
    _hidden.update(names)


def hidden_names() -> frozenset[str]:
    """The names of fields whose values no text in this process shows."""
    return frozenset(_hidden)


def masked(text: str, more: Iterable[str] = ()) -> str:
    """The text with the values of hidden fields masked."""
    result: str = mask(text, sorted({*_hidden, *more}))
    return result


def masked_repr(value: Any, more: Iterable[str] = ()) -> str:
    """The repr of a value, shortened, with the values of hidden fields masked. Never raises, whatever the value is."""
    try:
        return _masked_repr(value, more)
    except RecursionError:
        why = "nested too deeply"
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        why = f"{type(error).__name__} in its repr"
    if type(value) is int:
        # Python refuses to write more than 4,300 digits, as that takes long.
        why = f"of about {int(value.bit_length() * log10(2)) + 1} digits"
        return f"<int {why}>"
    return f"<{type(value).__name__[:_LONGEST_NAME]}: {why}>"


def _masked_repr(value: Any, more: Iterable[str]) -> str:
    if isinstance(value, dict | list | tuple):
        redacted = redact(value, {*_hidden, *more})
        if redacted is HIDDEN:
            raise RecursionError
        value = redacted
    text = masked(shortened(value if isinstance(value, str) else repr(value)), more)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return repr(text) if isinstance(value, str) else text.encode(errors="backslashreplace").decode()


def summary(value: object, names: Iterable[str], more: Iterable[str] = ()) -> str:
    """``Dead(reason='poison', attempts=3)``: the class and those of these attributes that are not empty."""
    given = [(name, getattr(value, name)) for name in names]
    more = tuple(more)
    parts = [f"{name}={masked_repr(item, more)}" for name, item in given if not _is_empty(item)]
    return f"{type(value).__name__}({', '.join(parts)})"


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | tuple | dict | list) and not value)
