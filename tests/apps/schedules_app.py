"""An app whose schedules tests let real beats and workers fire. A task records the nominal time it was fired for."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab
from redis import Redis

from orchestrator import Agent, Context, Message, Orchestrator, handles
from orchestrator.agents.periodic import Fire, every

app = Celery("schedules_app", set_as_current=False)
orchestrator = Orchestrator(app)

RECORDED = "test:fired"


def _record(name: str, scheduled_for: Any) -> None:
    with Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as redis:
        redis.rpush(RECORDED, f"{name} {scheduled_for}")


@app.task(name="schedules_app.note", bind=True, shared=False)
def note(self: Any, name: str) -> None:
    """Record what was fired, and for when."""
    _record(name, (self.request.headers or {}).get("scheduled_for"))


class Refresh(Message):
    """A message that the agent has itself sent."""


class Own(Message):
    """Has the agent own a schedule, or give it up."""

    every_s: float = 0.0


class Clockwork(Agent):
    """An agent with a periodic method, and with schedules of its own."""

    name = "clockwork"

    @every(0.3, overlap="skip")
    def tick(self, fire: Fire) -> None:
        """Record the fire."""
        _record(fire.schedule, fire.scheduled_for)

    @handles(Own)
    def own(self, message: Own, context: Context) -> None:
        """Own a schedule, or give it up."""
        if message.every_s:
            context.every("refresh", Refresh(), every_s=message.every_s)
        else:
            context.schedules.unregister("refresh")

    @handles(Refresh)
    def refresh(self, message: Refresh, context: Context) -> None:
        """Record who was refreshed."""
        _record("refresh", context.scheduled_for)


orchestrator.host(Clockwork)


def argument() -> str:
    """An argument that is made when the entry fires."""
    return "lazy"


def entry(name: str, schedule: Any, **more: Any) -> dict[str, Any]:
    """An entry whose task records its name."""
    return {"task": "schedules_app.note", "schedule": schedule, "args": (name,), **more}


app.conf.beat_schedule = {
    "half": entry("half", 0.5),
    "second": entry("second", timedelta(seconds=1), options={"expires": 60}),
    "lazy": entry("lazy", 0.5) | {"args": (BeatLazyFunc(argument),)},
    "nightly": entry("nightly", crontab(hour="3", minute="0")),
}
