"""An app with agents that ask each other, for the tests of calls.

``celery -A tests.apps.calls_app worker`` hosts it; a test makes its own with :func:`make`.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import redis
from celery import Celery

from orchestrator import (
    Agent,
    Breaker,
    Context,
    Mailbox,
    Message,
    Orchestrator,
    Reply,
    Retry,
    handles,
    load_settings,
    replies,
)

#: Longest time a held handler waits to be let go.
HOLD_S = 30

#: Redis list of the replies that were handled, as JSON.
REPLIES = "test:replies"


class Quote(Message):
    """Is answered with twice the number; ``how`` names another end."""

    number: int
    how: str = ""


class Order(Message):
    """Has the shop ask for so many quotes, the first for ``number``."""

    number: int = 0
    count: int = 1
    how: str = ""
    agent: str = "billing"
    timeout_s: float = 30
    dies: bool = False
    #: Asks by ``ask_many``.
    many: bool = False


class Silent(Message):
    """No agent has a method for replies to this."""


class Relay(Message):
    """Has the shop call billing, which holds the request; returns the reply."""

    number: int


class Slowly(Message):
    """Takes so long; may run twice at once."""

    key: str
    for_s: float = 0


class Alone(Agent):
    """No worker hosts it."""

    name = "alone"

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        return message.number


class Shop(Agent):
    name = "shop"

    @handles(Order)
    def order(self, message: Order, context: Context) -> list[str]:
        quotes = [Quote(number=message.number + at, how=message.how) for at in range(message.count)]
        tags = [{"number": quote.number} for quote in quotes]
        limit_s = message.timeout_s
        if message.many:
            asked = context.ask_many(message.agent, quotes, timeout_s=limit_s, then=True, tags=tags)
        else:
            asked = [
                context.ask(message.agent, quote, timeout_s=limit_s, then=True, tag=tag)
                for quote, tag in zip(quotes, tags, strict=True)
            ]
        if message.dies and not context.redelivered:
            os.kill(os.getpid(), signal.SIGKILL)
        return asked

    @handles(Silent)
    def silent(self, _message: Silent, context: Context) -> None:
        context.ask("billing", Silent(), timeout_s=1, then=True)

    @handles(Relay)
    def relay(self, message: Relay, context: Context) -> Any:
        return context.orchestrator.call("billing", Quote(number=message.number, how="holds"), timeout_s=30)

    @replies(Quote)
    def quoted(self, reply: Reply, context: Context) -> None:
        note(context, {"id": reply.id, "tag": reply.tag, "result": reply.result, "error": str(reply.error or "")})


class Billing(Agent):
    name = "billing"
    retry = Retry(max_retries=0)

    @handles(Quote)
    def quote(self, message: Quote, context: Context) -> Any:
        if message.how in ("fails", "billing fails"):
            raise ValueError("no price")
        if message.how == "large":
            return "x" * 3_000_000
        if message.how == "odd":
            return object()
        if message.how == "dies once":
            connected(context).rpush("test:begun", message.number)
            if not context.redelivered:
                os.kill(os.getpid(), signal.SIGKILL)
        if message.how == "holds":
            held(context, message.number)
        return message.number * 2

    @handles(Silent)
    def silent(self, _message: Silent) -> None:
        pass

    @handles(Slowly, idempotent=True)
    def slowly(self, message: Slowly, context: Context) -> str:
        client = connected(context)
        client.rpush("test:ran", message.key)
        if message.for_s:
            client.blpop(["test:never"], timeout=message.for_s)
        return message.key


class Bounded(Agent):
    """A shop whose mailbox is small, and whose breaker opens soon."""

    name = "bounded"
    mailbox = Mailbox(limit=1)
    breaker = Breaker(failures=1, window_s=60, open_s=60)
    retry = Retry(max_retries=0)

    @handles(Order)
    def order(self, message: Order, context: Context) -> str:
        quote = Quote(number=message.number, how=message.how)
        return context.ask("billing", quote, timeout_s=message.timeout_s, then=True)

    @handles(Quote)
    def quote(self, message: Quote, context: Context) -> int:
        if message.how == "fails":
            raise ValueError("no price")
        if message.how.endswith("holds"):
            held(context, message.number)
        return message.number

    @replies(Quote)
    def quoted(self, reply: Reply, context: Context) -> None:
        note(context, {"id": reply.id, "result": reply.result})


#: What was noted in eager mode.
NOTED: list[dict[str, Any]] = []


def held(context: Context, number: int) -> None:
    """Wait until the test pushes to ``test:go:NUMBER``."""
    client = connected(context)
    client.rpush("test:begun", number)
    client.blpop([f"test:go:{number}"], timeout=HOLD_S)


def connected(context: Context) -> Any:
    """A connection to the test's Redis."""
    return redis.Redis.from_url(context.orchestrator.app.conf.broker_url, socket_timeout=None)


def note(context: Context, said: dict[str, Any]) -> None:
    """Note what has happened, in Redis or, in eager mode, in this process."""
    if context.orchestrator.eager:
        NOTED.append(said)
    else:
        connected(context).rpush(REPLIES, json.dumps(said))


def make(broker_url: str | None = None, *, eager: bool = False, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    made = Celery("calls", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        made.conf.broker_url = broker_url
    made.conf.task_always_eager = eager
    orchestrator = Orchestrator(made, load_settings(**settings))
    orchestrator.host(Shop, Billing, Bounded, Alone)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
