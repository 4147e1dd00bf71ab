"""The likeliest spelling of an unknown name, for errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from orchestrator.core.spelling.former_names import FORMER_NAMES

#: Characters of a name that is compared: the time it takes grows with its length, and no name is longer.
_LONGEST: Final = 500


def nearest(name: object, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The known name that ``name`` has become or is most similar to; empty if none is, or if it is no short text."""
    if not isinstance(name, str) or len(name) > _LONGEST:
        return ""
    folded = {str(other).lower(): str(other) for other in known}
    present = FORMER_NAMES.get(name.lower(), "")
    if present in folded:
        return folded[present]
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else ""


def meant(name: object, known: Iterable[str]) -> str:
    """``; did you mean 'billing'?``, to be appended to an error; empty if no known name is similar."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
