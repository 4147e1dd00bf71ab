"""The error that a failed attempt raises when it will be retried."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Retry as CeleryRetry

from orchestrator.core.deliveries.supervision import Failure


class RetryScheduled(CeleryRetry):
    """Raised in the pool's process; the worker's main process then schedules the next attempt.

    Celery handles it as its own ``Retry``, with the same states, events and signals.
    """

    def __init__(self, message: str | None = None, exc: Any = None, when: Any = 0, failure: Any = None) -> None:
        super().__init__(message, exc=exc, when=when)
        self.failure: dict[str, Any] = failure or {}

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.exc, self.when, self.failure)

    def last_failure(self) -> Failure:
        """The attempt that failed."""
        return Failure.from_wire(self.failure)
