"""An agent that is done in no time, and writes down what it began; one message kills its worker at once."""

from __future__ import annotations

import os
import signal

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles


class Step(Message):
    """One of many."""

    number: int
    deadly: bool = False


class Runner(Agent):
    """Quick, or dead."""

    name = "runner"

    def __init__(self) -> None:
        self._began = os.open(os.environ["RAPID_BEGAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @handles(Step)
    def step(self, message: Step) -> None:
        """Writes down its number."""
        os.write(self._began, b"%d\n" % message.number)
        if message.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def make(url: str) -> Orchestrator:
    """An app with the agent."""
    celery = Celery("rapid", broker=url, set_as_current=False)
    celery.conf.worker_prefetch_multiplier = 64
    orchestrator = Orchestrator(celery)
    orchestrator.host(Runner)
    return orchestrator


app = make(os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1/0")).app
