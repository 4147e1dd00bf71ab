"""Events as log records: one line for people, and the same as fields for collectors of JSON logs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from orchestrator.core.log import get_logger
from orchestrator.core.secrets.masking import mask
from orchestrator.telemetry import events
from orchestrator.telemetry.emit import Event

#: The logger all events go to.
LOGGER: Final = "orchestrator.events"

_CONCERNING: Final = frozenset(
    {
        events.DEAD_LETTERED,
        events.DROPPED,
        events.MAILBOX_WARNING,
        events.BREAKER_OPENED,
        events.BREAKER_ISOLATED,
        events.LETTERS_EXPIRED,
        events.REPLAY_STOPPED,
        events.AGENT_DEAD,
        events.AGENT_FENCED,
        events.DATASET_LOST,
        events.BROKER_SWITCHED,
        events.SWEEP_FALLBACK,
        events.MAILBOX_UNSERVED,
        events.MAILBOX_HELD,
    }
)


class EventLog:
    """Logs events: what concerns an operator as a warning, the rest as information.

    A record has the attributes ``event``, ``measurements`` and ``metadata``. In its texts the values of the hidden
    fields are masked, for an error's text may hold anything.
    """

    def __init__(self, hidden: Iterable[str] = ()) -> None:
        self._hidden = frozenset(hidden)

    def hide(self, names: Iterable[str]) -> None:
        """Hide the values of these fields too."""
        self._hidden |= frozenset(names)

    def __call__(self, event: Event) -> None:
        """Log one event."""
        level = logging.WARNING if event.name in _CONCERNING else logging.INFO
        logger = get_logger(LOGGER)
        if not logger.isEnabledFor(level):
            return
        metadata = mask(dict(event.metadata), self._hidden)
        fields = {**metadata, **{name: f"{value:.6g}" for name, value in event.measurements.items()}}
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        extra = {"event": event.name, "measurements": dict(event.measurements), "metadata": metadata}
        logger.log(level, "%s %s", event.name, text, extra=extra)
