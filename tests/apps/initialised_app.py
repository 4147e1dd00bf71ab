"""Singletons that note in which order they are called: ``celery -A tests.apps.initialised_app worker``."""

from __future__ import annotations

from typing import Any

from celery import Celery

from orchestrator import Agent, Concurrency, Mailbox, Message, Orchestrator, Term, handles, load_settings
from tests.support.notes_in_redis import own_redis, record


class Work(Message):
    number: int
    stays: bool = False


class _Singleton(Agent):
    singleton = True

    @handles(Work)
    def work(self, message: Work) -> None:
        record(f"test:{self.name}", what="work")
        if message.stays:
            own_redis().blpop(["test:go"], timeout=60)

    def on_elected(self, term: Term) -> None:
        record(f"test:{self.name}", what="elected")

    def on_deposed(self, term: Term) -> None:
        record(f"test:{self.name}", what="deposed")


class Free(_Singleton):
    """Its mailbox may be full when a term begins."""

    name = "free"
    mailbox = Mailbox(limit=41)


class Limited(_Singleton):
    name = "limited"
    concurrency = Concurrency(limit=1)


def make(url: str | None = None, **options: Any) -> Orchestrator:
    app = Celery("initialised", set_as_current=False)
    settings = load_settings(**options) if url is None else load_settings(broker_url=url, **options)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Free, Limited)
    return orchestrator


orchestrator = make()
app = orchestrator.app
