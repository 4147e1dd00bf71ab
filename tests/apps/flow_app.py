"""A Celery app with many small agents, for the tests of broadcasts, flow control and idempotency."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from orchestrator import (
    Agent,
    Breaker,
    Context,
    Exponential,
    Mailbox,
    Message,
    Orchestrator,
    Retry,
    handles,
    load_settings,
)

SOON = Exponential(initial_s=0.01, cap_s=0.02)

#: Longest time a held message waits to be let go.
HOLD_S = 30


class Reprice(Message):
    """Fails at the agent it names, with an error that is no text if it is to be odd."""

    fails_at: str = ""
    odd: bool = False


class Undo(Message):
    """Makes a Reprice good."""


class UndoSoon(Message):
    """The same, with little time for it by declaration."""


class Work(Message):
    """Fails if it is to."""

    fails: bool = False


class Urgent(Message):
    """Fails; who waits for it is to hear of it, and nobody sends it to an agent that is down."""


class Fence(Message):
    """Returns its fencing tokens: of the attempts before, which fail, and of this one."""

    failures: int = 0


class Hold(Message):
    """Runs until the test pushes to ``test:go:NAME``."""

    name: str


class _Base(Agent):
    retry = Retry(max_retries=0)

    @handles(Reprice)
    def reprice(self, message: Reprice, context: Context) -> str:
        if message.fails_at == context.agent:
            raise ValueError(os.fsdecode(b"\xe9") if message.odd else f"{context.agent} is to fail")
        return context.agent

    @handles(Undo)
    def undo(self, message: Undo, context: Context) -> str:
        return f"undone at {context.agent}"

    @handles(UndoSoon, expires_s=0.2, deadline_s=0.3)
    def undo_soon(self, message: UndoSoon, context: Context) -> str:
        return f"undone at {context.agent}"

    @handles(Work)
    def work(self, message: Work) -> str:
        if message.fails:
            raise ValueError("work is to fail")
        return "worked"

    @handles(Urgent, on_error="raise", when_down="error")
    def urgent(self, message: Urgent) -> None:
        raise ValueError("urgent is to fail")

    @handles(Fence, retry=Retry(max_retries=5, backoff=SOON))
    def fence(self, message: Fence, context: Context) -> int:
        if context.attempt <= message.failures:
            raise ConnectionError(str(context.fence))
        return context.fence

    @handles(Hold)
    def hold(self, message: Hold, context: Context) -> int:
        with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
            client.incr(f"test:began:{message.name}")
            client.blpop([f"test:go:{message.name}"], timeout=HOLD_S)
            client.rpush(f"test:fences:{message.name}", context.fence)
        return context.fence


class Europe(_Base):
    name = "eu"


class America(_Base):
    name = "us"


class Asia(_Base):
    """Nobody hosts it."""

    name = "asia"


class Fused(_Base):
    name = "fused"
    breaker = Breaker(failures=2, window_s=60, open_s=30)


class LongFused(_Base):
    name = "long-fused"
    breaker = Breaker(failures=2, window_s=60, open_s=600)


class Brief(_Base):
    """Its breaker opens for a moment."""

    name = "brief"
    breaker = Breaker(failures=2, window_s=60, open_s=0.3)


class Sluggish(Agent):
    """Takes longer than its breaker likes."""

    name = "sluggish"
    breaker = Breaker(slow_s=0.001, slow_rate=1, least=2, window_s=60, open_s=600)

    @handles(Work)
    def work(self, message: Work) -> int:
        return sum(range(300_000))


class Shared(_Base):
    """Goes by the word of two callers at least."""

    name = "shared"
    breaker = Breaker(failures=2, window_s=60, open_s=600, callers=2)


class Small(_Base):
    name = "small"
    mailbox = Mailbox(limit=3)


class Patient(_Base):
    name = "patient"
    mailbox = Mailbox(limit=3, overflow="block", block_s=30)


class Newest(_Base):
    """Wants what is new."""

    name = "newest"
    mailbox = Mailbox(limit=3, overflow="drop_oldest")


class Oldest(_Base):
    """Wants what is old."""

    name = "oldest"
    mailbox = Mailbox(limit=3, overflow="drop_newest")


AGENTS = (Europe, America, Asia, Fused, LongFused, Brief, Sluggish, Shared, Small, Patient, Newest, Oldest)


def make(broker_url: str | None = None, *, eager: bool = False, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("flow", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        app.conf.broker_url = broker_url
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(**settings))
    orchestrator.host(*AGENTS)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
