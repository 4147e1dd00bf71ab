"""Events: a name, what was measured, and what it was about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.log import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``name`` is one of :mod:`orchestrator.telemetry.events`."""

    name: str
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


Handler = Callable[[Event], None]

#: Those who hear everything, and by name those who hear that event (the former included).
_every: tuple[Handler, ...] = ()
_by_name: dict[str, tuple[Handler, ...]] = {}


def attach(handler: Handler, *names: str) -> None:
    """Have ``handler`` called from now on, in the thread that emits; with ``names``, for these events only."""
    global _every
    if not names:
        _every = (*_every, handler)
    for name in names or tuple(_by_name):
        _by_name[name] = (*_by_name.get(name, _every), handler)


def detach(handler: Handler) -> None:
    """Undo :func:`attach`; unknown handlers are ignored."""
    global _every
    _every = tuple(h for h in _every if h != handler)
    for name, handlers in tuple(_by_name.items()):
        _by_name[name] = tuple(h for h in handlers if h != handler)


def has_handlers(name: str) -> bool:
    """Whether the event has a handler. Ask before emitting thousands of events."""
    return bool(_by_name.get(name, _every))


def emit(name: str, measurements: Mapping[str, float] | None = None, **metadata: Any) -> None:
    """Call each handler of the event. An error of a handler is logged and never reaches the caller."""
    handlers = _by_name.get(name, _every)
    if not handlers:
        return
    event = Event(name, measurements or {}, metadata)
    for handler in handlers:
        try:
            handler(event)
        except Exception:
            logger.exception("telemetry handler %r failed on %s", handler, name)
