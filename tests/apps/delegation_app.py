"""A supervisor that delegates to a manager, which delegates to a worker; and one that works without help."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, AgentDown, Context, Message, Orchestrator, Reply, Retry, handles, load_settings, replies

#: Longest time a held handler waits to be let go.
HOLD_S = 30

#: Redis list of the replies that the supervisor has got, and of the sequences that the solo worker has.
NOTED = "test:noted"
SEQUENCE = "test:sequence"


class Task(Message):
    """Is delegated, with its parts."""

    id: str
    parts: tuple[str, ...] = ()


class Echo(Message):
    """Is answered with its text; ``how`` names another end."""

    text: str
    how: str = ""


class Step(Message):
    """Is noted by the agent that gets it."""

    number: int


class Supervisor(Agent):
    """Asks the manager, and notes its reply."""

    name = "supervisor"
    retry = Retry(max_retries=0)

    @handles(Task)
    def delegate(self, message: Task, context: Context) -> None:
        context.ask("manager", message, timeout_s=30, then=True, tag=message.id)

    @replies(Task)
    def done(self, reply: Reply, context: Context) -> None:
        assert context.conversation is not None
        noted = f"{reply.agent} {reply.tag}: {reply.result} in {context.conversation.data['type']}"
        connected(context).rpush(NOTED, noted)

    @handles(Step)
    def left(self, message: Step, context: Context) -> list[float | None]:
        """What is left here, and down the line."""
        own = context.remaining_s()
        return [own, *context.orchestrator.call("manager", message, timeout_s=60)]


class Manager(Agent):
    """Calls the worker for each part."""

    name = "manager"
    retry = Retry(max_retries=0)

    @handles(Task)
    def delegate(self, message: Task, context: Context) -> str:
        done = []
        for part in message.parts:
            try:
                done.append(context.orchestrator.call("worker", Task(id=part), timeout_s=20))
            except AgentDown as error:
                done.append(type(error).__name__)
        return ", ".join(done)

    @handles(Step)
    def left(self, message: Step, context: Context) -> list[float | None]:
        own = context.remaining_s()
        return [own, *context.orchestrator.call("worker", message, timeout_s=60)]


class Worker(Agent):
    """Works; says for whom, as far as the conversation tells."""

    name = "worker"
    retry = Retry(max_retries=0)

    @handles(Task)
    def work(self, message: Task, context: Context) -> str:
        talk = context.conversation
        return f"{message.id} for {' '.join(talk.agents if talk is not None else ())}"

    @handles(Echo)
    def echo(self, message: Echo, context: Context) -> str:
        client = connected(context)
        client.incr(f"test:runs:{message.text}")
        if message.how == "fails":
            raise ValueError(message.text)
        if message.how == "holds":
            client.rpush("test:begun", message.text)
            client.blpop([f"test:go:{message.text}"], timeout=HOLD_S)
        return message.text

    @handles(Step)
    def step(self, message: Step, context: Context) -> list[float | None]:
        connected(context).rpush(SEQUENCE, message.number)
        return [context.remaining_s()]


def connected(context: Context) -> Any:
    """A connection to the test's Redis."""
    return redis.Redis.from_url(context.orchestrator.app.conf.broker_url, socket_timeout=None)


def make(broker_url: str | None = None, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    made = Celery("delegation", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = made.conf.broker_url = broker_url
    orchestrator = Orchestrator(made, load_settings(**settings))
    orchestrator.host(Supervisor, Manager, Worker)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
