"""A Celery app with agents whose messages have secrets of every shape."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery
from pydantic import BaseModel, SecretBytes, SecretStr, model_serializer

from orchestrator import Agent, Constant, Message, Orchestrator, Retry, handles, load_settings

SECRET = "S3CRET"

#: Longest time a held message waits to be let go.
HOLD_S = 30

#: Another attempt follows the first.
TWICE = Retry(max_retries=1, backoff=Constant(0.01))

#: The names of all fields that are, or hold, one.
NAMES = ("door", "doors", "pin", "safe")


class Home(BaseModel):
    street: str
    door: SecretStr = SecretStr("")


class Pay(Message):
    user: str
    pin: SecretStr
    safe: SecretBytes | None = None
    homes: tuple[Home, ...] = ()
    by_town: dict[str, Home] = {}  # noqa: RUF012 - pydantic copies it
    doors: dict[str, SecretStr] = {}  # noqa: RUF012 - pydantic copies it


class Greet(Message):
    name: str


class Complain(Message):
    """Raises the text, or returns what is no JSON and has it in its own error."""

    text: str
    returned: bool = False


class Unspeakable(BaseModel):
    """Says the text when it is to become JSON."""

    text: str

    @model_serializer
    def _say(self) -> str:
        raise ValueError(self.text)


class Hold(Message):
    """Runs until the test pushes to ``test:go``."""

    pin: SecretStr


class Clerk(Agent):
    name = "clerk"
    retry = Retry(max_retries=0)

    @handles(Pay)
    def pay(self, message: Pay) -> None:
        raise ValueError(f"no money for pin={message.pin.get_secret_value()}")

    @handles(Greet)
    def greet(self, message: Greet) -> str:
        return message.name

    @handles(Complain)
    def complain(self, message: Complain) -> Unspeakable:
        if message.returned:
            return Unspeakable(text=message.text)
        raise ValueError(message.text)

    @handles(Hold)
    def hold(self, message: Hold) -> None:
        with redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None) as client:
            client.blpop(["test:go"], timeout=HOLD_S)


class Deputy(Clerk):
    name = "deputy"


def pay() -> Pay:
    """One with a secret in each place."""
    home = Home(street="s", door=SecretStr(SECRET))
    return Pay(
        user="u",
        pin=SecretStr(SECRET),
        safe=SecretBytes(SECRET.encode()),
        homes=(home,),
        by_town={"ghent": home},
        doors={"back": SecretStr(SECRET)},
    )


def make(broker_url: str | None = None, *, eager: bool = False, hosts: bool = True, **settings: Any) -> Orchestrator:
    """An app of its own; its Celery app is ``.app``."""
    app = Celery("secrets", set_as_current=False)
    if broker_url is not None:
        settings["broker_url"] = broker_url
        app.conf.broker_url = broker_url
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app, load_settings(**settings))
    if hosts:
        orchestrator.host(Clerk, Deputy)
    return orchestrator


orchestrator = make(os.environ.get("ORCHESTRATOR_BROKER_URL"))
app = orchestrator.app
