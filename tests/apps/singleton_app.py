"""A singleton on real workers: ``celery -A tests.apps.singleton_app worker``."""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Term, handles, load_settings


class Tick(Message):
    number: int


class Stay(Message):
    """Run until the test pushes to ``test:go``."""


class Cron(Agent):
    name = "cron"
    singleton = True

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        record("test:ticks", number=message.number, by=context.incarnation)
        return context.incarnation

    @handles(Stay)
    def stay(self, message: Stay, context: Context) -> str:
        record("test:stays", by=context.incarnation)
        client().blpop(["test:go"], timeout=60)
        return context.incarnation

    def on_elected(self, term: Term, context: Context) -> None:
        record("test:terms", kind="elected", number=term.number, leader=term.leader, by=context.incarnation)

    def on_deposed(self, term: Term) -> None:
        record("test:terms", kind="deposed", number=term.number, leader=term.leader, reason=term.reason)


class Plain(Agent):
    """Beside it, an agent that every worker serves."""

    name = "plain"

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        return context.incarnation


def client() -> Any:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def record(key: str, **fields: Any) -> None:
    client().rpush(key, json.dumps(fields))


def make(url: str | None = None) -> Orchestrator:
    app = Celery("singletons", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Cron, Plain)
    return orchestrator


orchestrator = make()
app = orchestrator.app
