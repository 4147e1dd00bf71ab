"""Receivers of Celery's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from tests.support.eventually import eventually

_PROBE = "test-probe"


def await_subscription(app: Celery, seen: Callable[[], set[Any]], timeout_s: float = 20.0) -> None:
    """Wait until a receiver has subscribed: it begins to read before Redis knows of it, and misses what is sent then.

    ``seen`` returns the types of the events that it has received.
    """
    with app.events.default_dispatcher() as dispatcher:

        def has_come() -> bool:
            # Whoever subscribes has missed what was before; so it is sent again.
            dispatcher.send(_PROBE)
            return _PROBE in seen()

        eventually(has_come, timeout_s)
