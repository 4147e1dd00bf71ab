"""The Celery app. Its settings come from the environment and, if named there, a profile in ``config/``."""

from __future__ import annotations

from celery import Celery

from orchestrator import Orchestrator

app = Celery("workers")
orchestrator = Orchestrator(app)
