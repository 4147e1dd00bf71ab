"""Agents that monitor and are monitored, on real workers: ``celery -A tests.apps.monitors_app worker``."""

from __future__ import annotations

import json
import os

import redis
from celery import Celery

from orchestrator import Agent, Context, Down, Message, Orchestrator, handles, load_settings

HOLD_S = 30


class Watch(Message):
    """Monitor this; with ``hold``, only once the test pushes to ``test:go``."""

    target: str
    tag: str = ""
    hold: bool = False


class Sentry(Agent):
    name = "sentry"

    @handles(Watch)
    def watch(self, message: Watch, context: Context) -> int:
        if message.hold:
            client = _record()
            client.rpush("test:began", "1")
            client.blpop(["test:go"], timeout=HOLD_S)
        return context.monitor(message.target, message.tag)

    def on_down(self, down: Down, context: Context) -> None:
        if down.tag == "broken" and context.attempt == 1:
            raise ConnectionError("not this time")
        told = {"ref": down.ref, "target": down.target, "reason": down.reason, "owner": down.owner}
        _record().rpush("test:downs", json.dumps({**told, "tag": down.tag, "attempt": context.attempt}))


class Victim(Agent):
    name = "victim"

    @handles(Watch)
    def watch(self, message: Watch) -> None: ...


def _record() -> redis.Redis:
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def make(url: str | None = None) -> Orchestrator:
    app = Celery("sentries", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Sentry, Victim)
    return orchestrator


orchestrator = make()
app = orchestrator.app
