"""The worker pools that this library can supervise."""

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from celery.concurrency import get_implementation

from orchestrator.transport.transport import TRACKED_REQUEST
from orchestrator.worker.execution.attempts import underive

_KNOWN: Final = {
    f"celery.concurrency.{module}:TaskPool": name
    for module, name in (
        ("prefork", "prefork"),
        ("solo", "solo"),
        ("thread", "threads"),
        ("gevent", "gevent"),
        ("eventlet", "eventlet"),
    )
}


#: Methods that a pool class overrides if it runs messages in another way.
_RUNNING: Final = {"apply_async", "on_apply"}


def why_unknown(pool: str | type) -> str:
    """The reason why messages that this pool runs cannot be supervised; empty if they can.

    A class that is derived from a known one and does not override these methods is known.
    """
    cls: Any = get_implementation(pool) if isinstance(pool, str) else pool
    for base in cls.__mro__:
        if f"{base.__module__}:{base.__qualname__}" in _KNOWN:
            return ""
        if _RUNNING & vars(base).keys():
            break
    return f"the pool {cls.__module__}:{cls.__qualname__} is not known; known: {', '.join(_KNOWN.values())}"


def release_tasks(app: Celery, why: str) -> None:
    """Have the worker's pool run every task as Celery would. Supervised messages become dead letters that say why."""
    for task in app.tasks.values():
        if getattr(task, "__supervised__", False):
            underive(task)
            task.Request = TRACKED_REQUEST
            task.__unsupervised__ = why
