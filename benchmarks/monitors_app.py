"""The app whose workers are killed while they are monitored."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles, load_settings


class Nothing(Message):
    """Asks for nothing."""


class Victim(Agent):
    """Is monitored."""

    name = "victim"

    @handles(Nothing)
    def nothing(self, message: Nothing) -> None:
        """Does nothing."""


def make(url: str) -> Orchestrator:
    """The app on a Redis."""
    app = Celery("victims", broker=url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=url))
    orchestrator.host(Victim)
    return orchestrator


app = make(os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")).app
