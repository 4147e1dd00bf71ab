"""A stand-in for Celery's worker, as its bootsteps see it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool


class Worker:
    """What a worker tells its bootsteps."""

    def __init__(self, app: Celery, pool: type = SoloPool, *, soft: Any = None, hard: Any = None) -> None:
        self.app, self.pool_cls = app, pool
        # As Celery's worker: the command line's, or else the configuration's.
        self.soft_time_limit = app.either("task_soft_time_limit", soft)
        self.time_limit = app.either("task_time_limit", hard)
