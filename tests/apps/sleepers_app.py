"""Agents with a limit of running messages, whose workers sleep long: only a ring at the doorbell wakes them in time.

``celery -A tests.apps.sleepers_app worker``
"""

from __future__ import annotations

import os
from typing import Any, Final

import redis
from celery import Celery

from orchestrator import (
    Agent,
    Concurrency,
    Context,
    Decision,
    Message,
    Orchestrator,
    Reply,
    Retry,
    Vote,
    handles,
    load_settings,
    replies,
    votes,
)
from orchestrator.transport import reader

#: How long a worker sleeps that nobody wakes.
SLEEP_S: Final = 20

#: Redis list of what was handled.
NOTED: Final = "test:noted"


class Add(Message):
    """Returns the number and one; fails at a negative one."""

    number: int


class Open(Message):
    """Has the books ask."""

    number: int


class Plan(Message):
    """A proposal of the books."""


class Undo(Message):
    """Undoes an addition."""


class Ledgers(Agent):
    name = "ledgers"
    concurrency = Concurrency(limit=1)
    retry = Retry(max_retries=0)

    @handles(Add)
    def add(self, message: Add, context: Context) -> int:
        note(context, f"added {message.number}")
        if message.number < 0:
            raise ValueError("no such number")
        return message.number + 1

    @handles(Undo)
    def undo(self, message: Undo, context: Context) -> None:
        note(context, "undone")

    @votes(Plan)
    def vote(self, message: Plan) -> Vote:
        return Vote.approve()

    def on_decision(self, decision: Decision, context: Context) -> None:
        note(context, "decided")


class Books(Agent):
    name = "books"
    concurrency = Concurrency(limit=1)
    retry = Retry(max_retries=0)

    @handles(Open)
    def open(self, message: Open, context: Context) -> None:
        context.ask("ledgers", Add(number=message.number), then=True, timeout_s=60)

    @handles(Add)
    def add(self, message: Add) -> None:
        raise ValueError("books add nothing")

    @handles(Undo)
    def undo(self, message: Undo) -> None:
        pass

    @replies(Add)
    def added(self, reply: Reply, context: Context) -> None:
        note(context, f"reply {reply.result}")


def note(context: Context, what: str) -> None:
    """Note what was handled."""
    redis.Redis.from_url(context.orchestrator.app.conf.broker_url).rpush(NOTED, what)


def make(url: str | None = None) -> Orchestrator:
    """An app of its own."""
    made = Celery("sleepers", set_as_current=False)
    settings = load_settings() if url is None else load_settings(broker_url=url)
    made.conf.broker_url = settings.broker_url.get_secret_value()
    made.conf.broker_transport_options = {"block_s": SLEEP_S, "polling_interval": SLEEP_S, "stuck_s": 3 * SLEEP_S}
    orchestrator = Orchestrator(made, settings)
    orchestrator.host(Ledgers, Books)
    return orchestrator


if "ORCHESTRATOR_BROKER_URL" in os.environ:
    reader._ON_HOLD_SLEEP_MS = SLEEP_S * 1000
orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app: Any = orchestrator.app
