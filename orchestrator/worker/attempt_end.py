"""What is to be done when the attempt that runs here ends, whatever its end is."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Of the attempt that runs in this thread or greenlet.
AT_END: Final[ContextVar[list[Callable[[], Any]] | None]] = ContextVar("orchestrator_at_end", default=None)


def at_end(callback: Callable[[], Any]) -> None:
    """Have ``callback`` called when the present attempt ends, unless its process is killed before."""
    callbacks = AT_END.get()
    if callbacks is None:
        AT_END.set([callback])
    else:
        callbacks.append(callback)


def run_at_end(outer: list[Callable[[], Any]] | None) -> None:
    """The attempt has ended; ``outer`` is of the one that runs around it, as in eager mode."""
    callbacks = AT_END.get()
    AT_END.set(outer)
    for callback in reversed(callbacks or ()):
        try:
            callback()
        except Exception:
            # What the handler has done counts all the same.
            logger.exception("what was to follow the end of an attempt failed")
