"""An app with entries that cannot be schedules."""

from __future__ import annotations

from celery import Celery

from orchestrator import Orchestrator

app = Celery("bad_schedules_app", set_as_current=False)
orchestrator = Orchestrator(app)


app.conf.beat_schedule = {
    "words": {"task": "t", "schedule": "every day"},
    "fast": {"task": "t", "schedule": 0.01},
    "good": {"task": "t", "schedule": 30},
}
