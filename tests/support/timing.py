"""How long something takes, on a machine that may do something else meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

_TIMES = 3


def least_s(act: Callable[[], object]) -> float:
    """The shortest of three times that it took: a busy machine may delay one of them, but hardly each."""
    took: list[float] = []
    for _ in range(_TIMES):
        began = monotonic()
        act()
        took.append(monotonic() - began)
    return min(took)
