"""The app of `docs/canvas.md`, whose workers kill themselves where Celery loses the body of a chord."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

from celery.backends.redis import RedisBackend
from celery.canvas import Signature
from celery.signals import task_postrun
from redis import Redis

PAGE = (Path(__file__).parents[2] / "docs" / "canvas.md").read_text(encoding="utf-8")
URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")

EXAMPLE, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
exec(EXAMPLE.replace("redis://127.0.0.1:6379/0", URL))

app: Any = globals()["app"]
orchestrator: Any = globals()["orchestrator"]
order: Any = globals()["order"]


def _die_once() -> None:
    with Redis.from_url(URL) as client:
        first = client.set("test:killed", 1, nx=True)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_between_counting_and_sending() -> None:
    """Die where the last task of a chord has been counted and the body is about to be sent."""
    count = RedisBackend.on_chord_part_return
    delay = Signature.delay

    def counting(self: Any, request: Any, state: Any, result: Any, *args: Any, **options: Any) -> Any:
        def dying(signature: Any, *values: Any, **more: Any) -> Any:
            _die_once()
            return delay(signature, *values, **more)

        Signature.delay = dying
        try:
            return count(self, request, state, result, *args, **options)
        finally:
            Signature.delay = delay

    RedisBackend.on_chord_part_return = counting


def _kill_after_the_last_task(task_id: str, task: Any, **_: Any) -> None:
    """Die where the last task of the header has returned and its outcome is about to be recorded."""
    with Redis.from_url(URL) as client:
        count = client.incr("test:priced")
    if count == 3:
        _die_once()


if os.environ.get("CHORD_APP_KILL") == "celery":
    _kill_between_counting_and_sending()
elif os.environ.get("CHORD_APP_KILL") == "run":
    task_postrun.connect(_kill_after_the_last_task)
