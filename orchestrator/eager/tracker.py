"""Looks up deliveries in eager mode: they have their outcomes, unless a breaker defers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

from orchestrator.eager.deferred_messages import DeferredMessages
from orchestrator.eager.delivery_runner import DeliveryRunner
from orchestrator.eager.records import EagerRecords
from orchestrator.sending.delivery import CancelResult, Found, Status


class EagerTracker:
    """See :class:`orchestrator.sending.delivery.Tracker`."""

    def __init__(self, app: Celery, records: EagerRecords, deferred: DeferredMessages, runner: DeliveryRunner) -> None:
        self._app = app
        self._records = records
        self._deferred = deferred
        self._runner = runner

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The outcome with its history, as JSON data."""
        return self._records.record(delivery_id)

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """A deferred message; ``None`` for others, which never wait here."""
        located = self.locate(delivery_id)
        return None if located is None else located[1]

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """The same, with its mailbox."""
        message = self._deferred.find(delivery_id)
        if message is None:
            return None
        queue = getattr(message.queue, "name", message.queue) or self._app.conf.task_default_queue
        return str(queue), Found(Status.PENDING, message.supervision)

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """Cancel a deferred message; it is too late for others, which have their outcomes."""
        message = self._deferred.find(delivery_id)
        if message is not None:
            self._deferred.remove(message)
            self._runner.cancel(message, "sender")
            return CancelResult.CANCELLED
        known = self._records.outcome(delivery_id) is not None
        return CancelResult.TOO_LATE if known else CancelResult.UNKNOWN
