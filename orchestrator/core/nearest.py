"""The likeliest spelling of an unknown name, for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from orchestrator.core.former_names import FORMER_NAMES


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The known name that ``name`` has become or is most similar to; empty if none is similar enough."""
    folded = {str(other).lower(): str(other) for other in known}
    present = FORMER_NAMES.get(name.lower(), "")
    if present in folded:
        return folded[present]
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else ""


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'billing'?``, to be appended to an error; empty if no known name is similar."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
