"""Two agents on a broker with several servers; what they do rests on no server that a test kills."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles, load_settings


class Add(Message):
    a: int
    b: int


class Lasts(Message):
    """Takes until somebody writes to that named pipe."""

    pipe: str


class Adder(Agent):
    name = "adder"

    @handles(Add)
    def add(self, message: Add) -> int:
        return message.a + message.b

    @handles(Lasts)
    def lasts(self, message: Lasts) -> str:
        return Path(message.pipe).read_text()


class Victim(Agent):
    name = "victim"

    @handles(Add)
    def add(self, message: Add) -> int:
        raise ValueError(str(message.a))


def make(url: str, *, master_name: str = "") -> Orchestrator:
    """An app of its own."""
    app = Celery("failover", broker=url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True, broker_transport_options={"master_name": master_name} if master_name else {}
    )
    orchestrator = Orchestrator(app, load_settings(broker_url=url, stuck_s=5))
    orchestrator.host(Adder, Victim)
    return orchestrator


orchestrator = make(
    os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0"),
    master_name=os.environ.get("FAILOVER_MASTER", ""),
)
app = orchestrator.app
