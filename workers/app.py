"""The Celery app. Its settings come from the environment and, if named there, a profile in ``config/``."""

from __future__ import annotations

from celery import Celery

from orchestrator import Orchestrator
from orchestrator.core.settings import Settings
from workers.auditors import Auditor


def assemble(settings: Settings | None = None) -> Orchestrator:
    """A Celery app under supervision, with every agent of this package."""
    orchestrator = Orchestrator(Celery("workers"), settings)
    orchestrator.host(Auditor)
    return orchestrator


orchestrator = assemble()
app: Celery = orchestrator.app
