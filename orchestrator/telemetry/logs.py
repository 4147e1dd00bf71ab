"""Events as log records: one line for people, and the same as fields for whoever collects logs as JSON."""

from __future__ import annotations

import logging
from typing import Final

from orchestrator.telemetry import events
from orchestrator.telemetry.emit import Event

#: The logger all events go to.
LOGGER: Final = "orchestrator.events"

_CONCERNING: Final = frozenset(
    {
        events.BURIED,
        events.DROPPED,
        events.MAILBOX_WARNING,
        events.BREAKER_OPENED,
        events.LETTERS_EXPIRED,
        events.REPLAY_STOPPED,
        events.AGENT_DEAD,
        events.AGENT_FENCED,
        events.SWEEP_STOOD_IN,
    }
)


def log_event(event: Event) -> None:
    """Log one event: what concerns an operator as a warning, the rest as information.

    The record has the attributes ``event``, ``measurements`` and ``metadata``.
    """
    fields = {**event.metadata, **{name: f"{value:.6g}" for name, value in event.measurements.items()}}
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    logging.getLogger(LOGGER).log(
        logging.WARNING if event.name in _CONCERNING else logging.INFO,
        "%s %s",
        event.name,
        text,
        extra={"event": event.name, "measurements": dict(event.measurements), "metadata": dict(event.metadata)},
    )
