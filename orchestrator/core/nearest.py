"""What somebody meant who named what is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """The known name that is most like this one; empty if none is."""
    folded = {str(other).lower(): str(other) for other in known}
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else ""


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'billing'?``, to be put after what names the mistake; empty if nothing is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
