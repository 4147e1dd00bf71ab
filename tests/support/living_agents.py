"""Agents that live as far as Redis says, without a worker: what is sent to them stays in their mailboxes."""

from __future__ import annotations

import json
from typing import Any

from celery import Celery
from redis import Redis

from orchestrator import Agent, Breaker, Context, Mailbox, Message, Orchestrator, Retry, handles, load_settings

#: By Redis' clock, long after any test.
_FAR_MS = 10**15


class Page(Message):
    """A page to be read."""

    number: int
    text: str = ""


class Cover(Message):
    """The cover of a book."""

    title: str


class Reader(Agent):
    """Reads pages, and fails on those without a number above 0."""

    capabilities = frozenset({"ocr"})
    retry = Retry(max_retries=0)

    @handles(Page)
    def read(self, message: Page, context: Context) -> str:
        """Who has read it."""
        if message.number < 0:
            raise ValueError(f"page {message.number}")
        return f"{context.agent} {message.number}"

    @handles(Cover)
    def look(self, message: Cover) -> str:
        """Its title."""
        return message.title


def reader(
    name: str, *capabilities: str, mailbox: Mailbox | None = None, breaker: Breaker | None = None
) -> type[Reader]:
    """A reader of that name."""
    more: dict[str, Any] = {"name": name, "mailbox": mailbox, "breaker": breaker}
    if capabilities:
        more["capabilities"] = frozenset(capabilities)
    return type(f"Reader_{name}", (Reader,), more)


def make(url: str, *agents: type[Agent], eager: bool = False) -> Orchestrator:
    """An app of its own that declares these agents."""
    app = Celery("distribution", broker=url, set_as_current=False)
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(broker_url=url))
    orchestrator.host(*agents)
    return orchestrator


def close(orchestrator: Orchestrator) -> None:
    """Close its connections."""
    if not orchestrator.eager:
        orchestrator.runtime.store.client.close()
        orchestrator.runtime.store.pool.disconnect()
    orchestrator.app.close()


def live(orchestrator: Orchestrator, *agents: str, slots: int = 1, host: str = "h1", number: int = 1) -> None:
    """Have agents live, in a worker of their own on a host; does nothing in eager mode."""
    if orchestrator.eager:
        return
    store: Any = orchestrator.runtime.store
    incarnation = f"w{number}@{host}:1#{number}"
    served = json.dumps(agents)
    fields = {"agents": served, "queues": served, "host": host, "concurrency": slots}
    fields |= {"releases_steps": 1, "counts_votes": 1}
    store.client.hset(store.keys.incarnation(incarnation), mapping=fields)
    for agent in agents:
        store.client.hset(store.keys.hosts(agent), incarnation, slots)
        store.client.sadd(store.keys.servers(agent), incarnation)
    store.client.zadd(store.keys.leases, {incarnation: _FAR_MS})


def end(orchestrator: Orchestrator, *, host: str = "h1", number: int = 1) -> None:
    """Have that worker have no lease any more."""
    store: Any = orchestrator.runtime.store
    store.client.zrem(store.keys.leases, f"w{number}@{host}:1#{number}")


def mail(orchestrator: Orchestrator, *agents: str) -> dict[str, list[dict[str, Any]]]:
    """The messages in the mailboxes of agents, as JSON data."""
    store: Any = orchestrator.runtime.store
    with Redis(connection_pool=store.pool) as client:
        found: dict[str, list[dict[str, Any]]] = {}
        for agent in agents:
            rows: Any = [row for stream in store.streams(agent) for row in client.xrange(stream)]
            found[agent] = [json.loads(fields[b"m"]) for _, fields in rows]
    return found
