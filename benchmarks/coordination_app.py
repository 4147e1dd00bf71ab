"""A singleton that says when it handles a message: ``celery -A benchmarks.coordination_app worker``."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, handles, load_settings


class Tick(Message):
    """Handle this, and say so."""


class Leader(Agent):
    """Handles messages while it leads."""

    name = "leader"
    singleton = True

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> None:
        _records().rpush("bench:ticks", f"{monotonic()} {context.incarnation}")


_client: Any = None


def _records() -> Any:
    global _client
    if _client is None:
        _client = redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"])
    return _client


def make(url: str | None = None) -> Orchestrator:
    """The app, of a worker or of a sender."""
    app = Celery("leaders", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    # A session of its own for each of the threads that wait; kombu's default are ten connections a process.
    app.conf.broker_transport_options = {"max_connections": 1000}
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Leader)
    return orchestrator


if "ORCHESTRATOR_BROKER_URL" in os.environ:
    orchestrator = make()
    app = orchestrator.app
