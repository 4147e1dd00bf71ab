"""The tasks of the bare app under an Orchestrator."""

from __future__ import annotations

from celery import Celery

from orchestrator import Orchestrator
from tests.apps import bare

app = Celery("held", broker=bare.URL, set_as_current=False)
Orchestrator(app)
for function in (bare.note, bare.hold, bare.nap):
    app.task(name=f"held.{function.name}", shared=False)(function.run)
