"""An app of a user whose signal receivers, schedule and scheduler class must see nothing of housekeeping."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery, signals
from celery.beat import Scheduler

from orchestrator import Agent, Message, Orchestrator, handles, load_settings

#: Where the names of the tasks seen by signal receivers are noted.
SEEN = "test:seen"

_SIGNALS = (
    *("before_task_publish", "after_task_publish", "task_received", "task_prerun", "task_postrun", "task_success"),
    *("task_failure", "task_retry", "task_revoked", "task_unknown", "task_rejected"),
)


class Ping(Message):
    """Is handled."""


class Ponger(Agent):
    """Answers."""

    name = "ponger"

    @handles(Ping)
    def ping(self, message: Ping) -> str:
        return "pong"


class OwnScheduler(Scheduler):
    """Keeps its entries elsewhere, as RedBeat and django-celery-beat do, and reads no ``beat_schedule``."""

    def setup_schedule(self) -> None:
        self.data: dict[str, Any] = {}


def tick() -> None:
    """The user's own periodic task."""


def make(url: str | None = None) -> Orchestrator:
    celery = Celery("housekept", broker=url, set_as_current=False)
    celery.conf.task_ignore_result = True
    orchestrator = Orchestrator(celery, load_settings())
    orchestrator.host(Ponger)
    celery.task(tick, name="user.tick", shared=False)
    # As users write it: an assignment, below the Orchestrator.
    celery.conf.beat_schedule = {"tick": {"task": "user.tick", "schedule": 0.3}}
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app


def _note(name: str, sender: Any = None, request: Any = None, **_: Any) -> None:
    task = sender if isinstance(sender, str) else getattr(request or sender, "name", repr(sender))
    with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        client.rpush(SEEN, f"{name} {task}")


if os.environ.get("LISTENS"):
    for _name in _SIGNALS:
        getattr(signals, _name).connect(lambda _name=_name, **kwargs: _note(_name, **kwargs), weak=False)
