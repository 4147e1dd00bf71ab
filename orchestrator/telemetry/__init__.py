"""Emits the events of this library: :func:`emit`. As with :mod:`logging`, a process has one set of handlers."""

from orchestrator.telemetry.emit import Event, attach, detach, emit, has_handlers

__all__ = ["Event", "attach", "detach", "emit", "has_handlers"]
