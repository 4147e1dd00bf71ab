"""Agents that limit how many of their messages run at a time: ``celery -A tests.apps.lanes_app worker``."""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Concurrency, Context, Message, Orchestrator, Retry, handles, load_settings

WAIT_S = 60


class Get(Message):
    """Note that it has begun, and go on when the test pushes to ``test:go``; one that ``fails`` does so once."""

    tenant: str
    number: int = 0
    fails: bool = False


class Fetch(Agent):
    name = "fetch"
    concurrency = Concurrency(limit=int(os.environ.get("FETCH_LIMIT", "2")), key="tenant")
    retry = Retry(max_retries=1)

    @handles(Get)
    def get(self, message: Get, context: Context) -> int:
        client = redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)
        client.rpush("test:begun", json.dumps([message.tenant, message.number, context.incarnation]))
        client.blpop(["test:go"], timeout=WAIT_S)
        if message.fails and context.attempt == 1:
            raise ConnectionError("not this time")
        return message.number


def make(url: str | None = None) -> Orchestrator:
    app = Celery("lanes", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Fetch)
    return orchestrator


orchestrator = make()
app: Any = orchestrator.app
