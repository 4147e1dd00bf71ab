"""An app with three agents that offer the same, for steps that say what they need."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from redis import Redis

from orchestrator import Agent, Context, Expand, Message, Orchestrator, Retry, handles, load_settings

#: Who has handled what, in eager mode; on Redis it is in the list ``test:noted``.
NOTED: list[str] = []


class Page(Message):
    """A page to be read; with ``hold`` it takes until the test lets it go."""

    number: int
    hold: str = ""


class Book(Message):
    """A book, whose pages are steps of their own."""

    pages: int


class Recall(Message):
    """Undoes a page."""

    number: int


def _note(what: str) -> None:
    if "ORCHESTRATOR_BROKER_URL" not in os.environ:
        NOTED.append(what)
        return
    with Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        client.rpush("test:noted", what)


class Reader(Agent):
    """Reads pages."""

    name = "reader-a"
    capabilities = frozenset({"ocr", "gpu"})
    retry = Retry(max_retries=0)

    @handles(Page)
    def read(self, message: Page, context: Context) -> str:
        """The page's reader."""
        _note(f"{context.agent} {message.number}")
        if message.hold:
            with Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
                client.blpop([f"test:go:{message.hold}"], timeout=30)
        return context.agent

    @handles(Book)
    def split(self, message: Book) -> Expand:
        """Its pages, wherever they can be read."""
        return Expand([Page(number=number) for number in range(message.pages)], needs={"ocr"})

    @handles(Recall)
    def recall(self, message: Recall, context: Context) -> None:
        """Notes it."""
        _note(f"{context.agent} recalls {message.number}")


class SecondReader(Reader):
    """Another one."""

    name = "reader-b"


class ThirdReader(Reader):
    """A third one."""

    name = "reader-c"


class Lister(Agent):
    """Offers nothing."""

    name = "lister"

    @handles(Book)
    def numbers(self, message: Book) -> list[int]:
        """The numbers of its pages."""
        return list(range(message.pages))


AGENTS = (Reader, SecondReader, ThirdReader, Lister)


def make(broker_url: str | None = None, *agents: type[Agent], eager: bool = False) -> Orchestrator:
    """An app of its own that hosts these agents; its Celery app is ``.app``."""
    settings: dict[str, Any] = {}
    app = Celery("placement", set_as_current=False)
    if broker_url is not None:
        app.conf.broker_url = settings["broker_url"] = broker_url
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(**settings))
    orchestrator.host(*agents)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"), *AGENTS)
app = orchestrator.app
