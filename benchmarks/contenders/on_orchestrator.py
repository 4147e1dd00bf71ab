"""Supervised messages to an agent: tracked, retried, dead-lettered; late acknowledgement."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.contenders.counting import count
from orchestrator import Agent, Message, Orchestrator, handles

app = Celery("contender", broker=os.environ["BENCH_URL"])
app.conf.worker_hijack_root_logger = False
# What Celery recommends for many short tasks.
app.conf.worker_prefetch_multiplier = 64
orchestrator = Orchestrator(app)


class Noop(Message):
    """Says nothing."""

    number: int


class Idler(Agent):
    """Counts."""

    name = "idler"

    @handles(Noop)
    def noop(self, message: Noop) -> None:
        """Does nothing, and counts it."""
        count()


orchestrator.host(Idler)


def bulk(messages: int) -> None:
    """Publish no-ops together."""
    orchestrator.send_many("idler", [Noop(number=number) for number in range(messages)])
