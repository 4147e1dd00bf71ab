"""One door for everything worth telling: :func:`emit`. Like :mod:`logging`, one set of handlers per process."""

from orchestrator.telemetry.emit import Event, attach, detach, emit, has_handlers

__all__ = ["Event", "attach", "detach", "emit", "has_handlers"]
