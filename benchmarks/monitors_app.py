"""The app whose workers are killed while they are monitored."""

from __future__ import annotations

import os
import time

from celery import Celery
from redis import Redis

from orchestrator import Agent, Message, Orchestrator, handles, load_settings

#: Where a worker says which message it has begun with, and when; and where it is let go.
BEGAN, GO = "bench:began", "bench:go"

_URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")


class Hold(Message):
    """Keeps its worker busy until it is let go."""


class Victim(Agent):
    """Is monitored, and killed while it has something to do."""

    name = "victim"

    @handles(Hold)
    def hold(self, message: Hold) -> None:
        """Say so, and wait. The clock is the same for all processes of a machine."""
        with Redis.from_url(_URL) as client:
            client.rpush(BEGAN, f"{os.getpid()} {time.monotonic()}")
            client.blpop([GO], timeout=30)


def make(url: str) -> Orchestrator:
    """The app on a Redis."""
    app = Celery("victims", broker=url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=url))
    orchestrator.host(Victim)
    return orchestrator


app = make(_URL).app
