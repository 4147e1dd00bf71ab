"""A singleton on real workers: ``celery -A tests.apps.singleton_app worker``."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Term, handles, load_settings
from tests.support.notes_in_redis import own_redis, record


class Tick(Message):
    number: int


class Stay(Message):
    """Run until the test pushes to ``test:go``."""


class Number(Message):
    """Return the number of the term, before and after."""

    waits: bool = False


class Cron(Agent):
    name = "cron"
    singleton = True

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        record("test:ticks", number=message.number, by=context.incarnation)
        return context.incarnation

    @handles(Number)
    def number(self, message: Number, context: Context) -> list[int | None]:
        before = context.term
        if message.waits:
            record("test:stays", by=context.incarnation)
            own_redis().blpop(["test:go"], timeout=60)
        after = context.term
        numbers = [None if term is None else term.number for term in (before, after)]
        record("test:numbers", by=context.incarnation, numbers=numbers)
        return numbers

    @handles(Stay)
    def stay(self, message: Stay, context: Context) -> str:
        record("test:stays", by=context.incarnation)
        own_redis().blpop(["test:go"], timeout=60)
        return context.incarnation

    def on_elected(self, term: Term, context: Context) -> None:
        record("test:terms", kind="elected", number=term.number, leader=term.leader, by=context.incarnation)

    def on_deposed(self, term: Term) -> None:
        record("test:terms", kind="deposed", number=term.number, leader=term.leader, reason=term.reason)


class OtherCron(Agent):
    """The same agent as a version of it that does not declare the singleton has it."""

    name = "cron"

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        return context.incarnation


class Plain(Agent):
    """Beside it, an agent that every worker serves."""

    name = "plain"

    @handles(Number)
    def number(self, message: Number, context: Context) -> bool:
        return context.term is None

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> str:
        return context.incarnation


def make(url: str | None = None) -> Orchestrator:
    app = Celery("singletons", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    app.conf.broker_url = settings.broker_url.get_secret_value()
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Cron if os.environ.get("TEST_SINGLETON", "1") == "1" else OtherCron, Plain)
    return orchestrator


orchestrator = make()
app = orchestrator.app
