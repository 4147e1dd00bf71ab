"""The likeliest spelling of an unknown name, for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The known name that is most similar to ``name``; empty if none is similar enough."""
    folded = {str(other).lower(): str(other) for other in known}
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else ""


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'billing'?``, to be appended to an error; empty if no known name is similar."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
