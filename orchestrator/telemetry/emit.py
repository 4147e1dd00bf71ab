"""Events: a name, what was measured, and what it was about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``name`` is one of :mod:`orchestrator.telemetry.events`."""

    name: str
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


Handler = Callable[[Event], None]

_handlers: tuple[Handler, ...] = ()


def attach(handler: Handler) -> None:
    """Have ``handler`` called with every event from now on, in the thread that emits it."""
    global _handlers
    _handlers = (*_handlers, handler)


def detach(handler: Handler) -> None:
    """Undo :func:`attach`; unknown handlers are ignored."""
    global _handlers
    _handlers = tuple(h for h in _handlers if h != handler)


def emit(name: str, measurements: Mapping[str, float] | None = None, **metadata: Any) -> None:
    """Tell every handler. A handler that raises is logged and never disturbs what is being told about."""
    if not _handlers:
        return
    event = Event(name, measurements or {}, metadata)
    for handler in _handlers:
        try:
            handler(event)
        except Exception:
            logger.exception("telemetry handler %r failed on %s", handler, name)
