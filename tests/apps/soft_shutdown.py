"""Has a worker that includes this module wait in a soft shutdown until the test says that its time is over."""

from __future__ import annotations

from celery.worker import worker

from tests.apps.bare import record


def _sleep(seconds: float) -> None:
    record.blpop(["test:soft-shutdown-over"], timeout=60)


worker.sleep = _sleep
