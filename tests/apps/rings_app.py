"""Two agents that call each other, each in one slot."""

from __future__ import annotations

import os
from typing import Any, Literal

from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Retry, handles


class Turn(Message):
    """Is called on to the next of these agents."""

    to: list[str]
    on_deadlock: Literal["warn", "error"] = "error"
    timeout_s: float = 10


class Time(Message):
    """Returns the time that is left for it, and what the next of these agents returns."""

    to: list[str]


class Left(Agent):
    name = "left"
    retry = Retry(max_retries=0)

    @handles(Turn)
    def turn(self, message: Turn, context: Context) -> Any:
        if not message.to:
            return self.name
        first, *rest = message.to
        return context.orchestrator.call(
            first,
            Turn(to=rest, on_deadlock=message.on_deadlock, timeout_s=message.timeout_s),
            timeout_s=message.timeout_s,
            on_deadlock=message.on_deadlock,
        )

    @handles(Time)
    def time(self, message: Time, context: Context) -> list[float | None]:
        own = [context.remaining_s()]
        if not message.to:
            return own
        first, *rest = message.to
        return [*own, *context.orchestrator.call(first, Time(to=rest), timeout_s=60)]


class Right(Left):
    name = "right"


def make(broker_url: str | None = None) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    made = Celery("rings", set_as_current=False)
    if broker_url is not None:
        made.conf.broker_url = broker_url
    orchestrator = Orchestrator(made)
    orchestrator.host(Left, Right)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
