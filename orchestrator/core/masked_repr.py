"""Short reprs without secrets, for values in logs, tracebacks and consoles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orchestrator.core.long_texts import shortened
from orchestrator.core.masking import mask
from orchestrator.core.redact import USUAL, redact

#: Characters of one value that a repr shows, at most.
_LONGEST: Final = 200

#: Names of fields whose values no repr shows, of every Orchestrator in this process. Names are only added.
_hidden: set[str] = set(USUAL)


def hide_in_reprs(names: Iterable[str]) -> None:
    """Have no repr in this process show the values of fields with these names."""
    _hidden.update(names)


def masked(text: str, more: Iterable[str] = ()) -> str:
    """The text with the values of hidden fields masked."""
    result: str = mask(text, sorted({*_hidden, *more}))
    return result


def masked_repr(value: Any, more: Iterable[str] = ()) -> str:
    """The repr of a value, shortened, with the values of hidden fields masked."""
    names = {*_hidden, *more}
    if isinstance(value, dict | list | tuple):
        value = redact(value, names)
    text = masked(shortened(value if isinstance(value, str) else repr(value)), more)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return repr(text) if isinstance(value, str) else text


def summary(value: object, names: Iterable[str], more: Iterable[str] = ()) -> str:
    """``Dead(reason='poison', attempts=3)``: the class and those of these attributes that are not empty."""
    given = [(name, getattr(value, name)) for name in names]
    more = tuple(more)
    parts = [f"{name}={masked_repr(item, more)}" for name, item in given if item not in ("", None, (), {}, [])]
    return f"{type(value).__name__}({', '.join(parts)})"
