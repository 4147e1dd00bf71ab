"""Agents for the tests of keys that something else has written: ``celery -A tests.apps.junk_app worker``."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from orchestrator import (
    Agent,
    Breaker,
    Bulkhead,
    Concurrency,
    Context,
    Exponential,
    Mailbox,
    Message,
    Orchestrator,
    Retry,
    Vote,
    handles,
    load_settings,
    votes,
)


class Work(Message):
    """Is handled after ``failures`` failed attempts; it waits for the test if it is to."""

    what: str
    failures: int = 0
    waits: bool = False


class _Worker(Agent):
    retry = Retry(max_retries=1, backoff=Exponential(initial_s=0.01, cap_s=0.02))

    @handles(Work)
    def work(self, message: Work, context: Context) -> str:
        """Work, and note it."""
        with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
            if message.waits:
                client.blpop([f"test:go:{message.what}"], timeout=30)
            if context.attempt <= message.failures:
                raise ConnectionError("not this time")
            client.rpush("test:done", f"{self.name} {message.what}")
        return message.what

    @votes(Work)
    def vote(self, message: Work) -> Vote:
        """Approve."""
        return Vote.approve()


class Near(_Worker):
    """Whose keys are overwritten."""

    name = "near"
    mailbox = Mailbox(limit=1000)
    breaker = Breaker(failures=1000)
    bulkhead = Bulkhead(calls=50)


class Laned(_Worker):
    """Limits how many of its messages run at a time."""

    name = "laned"
    concurrency = Concurrency(limit=2, key="what")


class Far(_Worker):
    """Whose keys are as they should be."""

    name = "far"


class Cold(_Worker):
    """No worker serves it. One that had a message of it has died."""

    name = "cold"


class Chill(_Worker):
    """The same, for another worker that has died."""

    name = "chill"


def make(url: str | None = None, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("junk", set_as_current=False)
    loaded = load_settings(**settings) if url is None else load_settings(broker_url=url, **settings)
    app.conf.broker_url = loaded.broker_url.get_secret_value()
    made = Orchestrator(app, loaded)
    made.host(Near, Laned, Far, Cold, Chill)
    return made


orchestrator = make()
app = orchestrator.app
