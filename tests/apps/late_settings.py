"""An app that is configured after its Orchestrator was made, as a project with settings in several places does it."""

from __future__ import annotations

import os
import signal

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles

app = Celery("late")
orchestrator = Orchestrator(app)


class Charge(Message):
    """A message."""

    cents: int


class Billing(Agent):
    """An agent."""

    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> int:
        """Return what was charged."""
        return message.cents


orchestrator.host(Billing)


@app.task(shared=False)
def add(one: int, other: int) -> int:
    return one + other


@app.task(reject_on_worker_lost=False, shared=False)
def die_and_stay_dead() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


#: By the names of before Celery 4.
LATE = {
    "BROKER_URL": os.environ.get("LATE_BROKER_URL", "redis://127.0.0.1:1/0"),
    "BROKER_TRANSPORT_OPTIONS": {"global_keyprefix": "late:"},
    "CELERY_DEFAULT_QUEUE": "late",
    "CELERYBEAT_SCHEDULE": {"add": {"task": add.name, "schedule": 3600.0, "args": (1, 2)}},
    "CELERY_TASK_RESULT_EXPIRES": 60,
}

app.config_from_object(LATE)
