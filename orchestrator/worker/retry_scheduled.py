"""The word by which an attempt says: not yet, once more."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Retry as CeleryRetry

from orchestrator.core.supervision import Failure


class RetryScheduled(CeleryRetry):
    """Raised where the handler ran; the worker's main process schedules the next attempt when it sees it.

    Celery takes it for its own ``Retry``, so states, events and signals are what its users know.
    """

    def __init__(self, message: str | None = None, exc: Any = None, when: Any = 0, failure: Any = None) -> None:
        super().__init__(message, exc=exc, when=when)
        self.failure: dict[str, Any] = failure or {}

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.exc, self.when, self.failure)

    def last_failure(self) -> Failure:
        """The attempt that failed."""
        return Failure.from_wire(self.failure)
