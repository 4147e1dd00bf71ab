"""An app for workers under a supervisor. While the file ``$SUPERVISED_BAD`` is there, a message ends its worker."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles

BAD = "SUPERVISED_BAD"


class Work(Message):
    """Blocks until the pipe at ``gate`` is written to, if there is one."""

    gate: str = ""


class Counter(Agent):
    """Handles work."""

    name = "counter"

    @handles(Work)
    def work(self, message: Work) -> int:
        if Path(os.environ.get(BAD, "/nowhere")).exists():
            os._exit(1)
        if message.gate:
            Path(message.gate).with_suffix(f".{os.getpid()}").touch()
            Path(message.gate).read_bytes()
        return os.getpid()


app = Celery("supervised", set_as_current=False)
orchestrator = Orchestrator(app)
orchestrator.host(Counter)
