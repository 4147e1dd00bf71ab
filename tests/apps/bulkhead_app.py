"""An app whose agent serves at most three requests at a time, whatever its workers could."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from redis import Redis

from orchestrator import Agent, Bulkhead, Message, Orchestrator, Retry, handles, load_settings


class Quote(Message):
    """Asks for its number; with ``hold`` it takes until the test lets it go."""

    number: int = 0
    hold: bool = False


class Billing(Agent):
    """Counts how many requests it serves at a time."""

    name = "billing"
    retry = Retry(max_retries=0)
    bulkhead = Bulkhead(calls=3, wait_s=60.0)

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        """The number."""
        with Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
            serving: Any = client.incr("test:serving")
            # Between two requests that end at once, the larger wins.
            client.eval(_MOST, 1, "test:most", serving)
            if message.hold and not client.exists("test:go"):
                client.rpush("test:held", message.number)
                client.blpop(["test:never"], timeout=60)
            client.decr("test:serving")
        return message.number


_MOST = "if ARGV[1] + 0 > tonumber(redis.call('GET', KEYS[1]) or 0) then redis.call('SET', KEYS[1], ARGV[1]) end"


def make(broker_url: str | None = None) -> Orchestrator:
    """An app of its own."""
    app = Celery("bulkheads", set_as_current=False)
    settings: dict[str, Any] = {}
    if broker_url is not None:
        app.conf.broker_url = settings["broker_url"] = broker_url
    orchestrator = Orchestrator(app, load_settings(**settings))
    orchestrator.host(Billing)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
