"""What a worker's heartbeats say of its pool."""

from __future__ import annotations

from types import SimpleNamespace

from celery import Celery
from celery.concurrency.prefork import TaskPool

from orchestrator.worker.heartbeat_fields import HeartbeatFields


def test_a_prefork_pool_that_has_ended_before_its_worker_stops_no_heartbeat() -> None:
    """Regression: from then on each heartbeat failed with an AttributeError, however long the worker took to end."""
    pool = TaskPool(3)
    fields = HeartbeatFields(Celery("a", set_as_current=False), {}, "")
    fields.worker = SimpleNamespace(pool=pool)
    pool._pool = SimpleNamespace(_processes=3)
    assert (fields()["pool"], fields()["concurrency"]) == ("prefork", "3")
    pool._pool = None
    assert fields()["pool"] == "prefork"
    assert "concurrency" not in fields()
