"""An app whose first pool process is killed as soon as it starts."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from redis import Redis

from orchestrator import Orchestrator

app = Celery("dying", broker=os.environ["ORCHESTRATOR_BROKER_URL"], set_as_current=False)
orchestrator = Orchestrator(app)


@worker_process_init.connect
def _die_first(**_: Any) -> None:
    with Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"]) as client:
        if client.incr("test:children") == 1:
            os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="echo")
def echo(value: str) -> str:
    return value
