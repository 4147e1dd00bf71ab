"""A task whose pool process is killed when its result has been stored."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import Any

from celery import Celery, signals

from orchestrator import Orchestrator, load_settings

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")

DAY = datetime(2026, 11, 28, tzinfo=UTC)


def make(url: str) -> Orchestrator:
    """An app of its own, whose results are in the broker's Redis."""
    app = Celery("lost_later", broker=url, backend=url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=url))

    @app.task(name="lost_later.double", shared=False)
    def double(number: int) -> int:
        return 2 * number

    @app.task(name="lost_later.day", shared=False)
    def day() -> datetime:
        return DAY

    return orchestrator


orchestrator = make(URL)
app = orchestrator.app


@signals.task_postrun.connect
def end_the_pool_process(task: Any = None, **_: Any) -> None:
    """The kernel kills for want of memory at any moment."""
    if task.name.startswith("lost_later.") and os.environ.get("KILLS"):
        os.kill(os.getpid(), signal.SIGKILL)
