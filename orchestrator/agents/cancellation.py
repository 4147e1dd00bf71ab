"""Whether what a handler does was cancelled meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from orchestrator.core.errors import InfrastructureError

#: Seconds for which an answer is kept, so that a handler may ask in a loop.
_KEPT_S: Final = 0.5


def never() -> bool:
    """Of a context that belongs to no delivery."""
    return False


class Cancellation:
    """Asks Redis, at most twice a second. While Redis is away, the last answer counts."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._known = False
        self._asked_at: float | None = None

    def __call__(self) -> bool:
        """Whether the delivery, or the run that it is a step of, was cancelled; it stays so."""
        if self._known or (self._asked_at is not None and monotonic() - self._asked_at < _KEPT_S):
            return self._known
        self._asked_at = monotonic()
        try:
            self._known = self._ask()
        except InfrastructureError:
            return False
        return self._known
