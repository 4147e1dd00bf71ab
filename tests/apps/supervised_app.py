"""An app for workers under a supervisor. While the file ``$SUPERVISED_BAD`` is there, a message ends its worker,
with the exit code that is in the file, or 1."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles
from orchestrator.transport.liveness import heart

BAD = "SUPERVISED_BAD"

#: While this variable is set, workers have no watchdog process, which would report their death, too.
WITHOUT_HEART = "SUPERVISED_WITHOUT_HEART"

#: A script that workers run as their watchdog process in place of the library's.
HEART_SCRIPT = "SUPERVISED_HEART_SCRIPT"


class Work(Message):
    """Blocks until the pipe at ``gate`` is written to, if there is one."""

    gate: str = ""


class TakeMemory(Message):
    """Takes ``megabytes`` of memory, unless there is the file ``marker``, which it makes."""

    marker: str
    megabytes: int


class Counter(Agent):
    """Handles work."""

    name = "counter"

    @handles(Work)
    def work(self, message: Work) -> int:
        bad = Path(os.environ.get(BAD, "/nowhere"))
        if bad.exists():
            os._exit(int(bad.read_text() or "1"))
        if message.gate:
            Path(message.gate).with_suffix(f".{os.getpid()}").touch()
            Path(message.gate).read_bytes()
        return os.getpid()

    @handles(TakeMemory)
    def take_memory(self, message: TakeMemory) -> int:
        marker = Path(message.marker)
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            taken = [b"x" * 2**20 for _ in range(message.megabytes)]
            marker.write_text(f"{len(taken)} MB taken")
        return os.getpid()


if HEART_SCRIPT in os.environ:
    heart.__file__ = os.environ[HEART_SCRIPT]

app = Celery("supervised", set_as_current=False)
app.conf.broker_transport_options = {"heart": WITHOUT_HEART not in os.environ}
orchestrator = Orchestrator(app)
orchestrator.host(Counter)
