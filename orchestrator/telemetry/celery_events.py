"""Events as Celery events, for Flower and whatever else watches a Celery cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from orchestrator.core.secrets.masking import mask
from orchestrator.telemetry import events
from orchestrator.telemetry.emit import Event

#: What is worth a watcher's while. Celery itself tells of every task received, started, retried, failed, succeeded.
TOLD: Final = (
    events.DEAD_LETTERED,
    events.REPLAYED,
    events.PURGED,
    events.MAILBOX_WARNING,
    events.MAILBOX_OVERFLOW,
    events.MAILBOX_UNSERVED,
    events.BREAKER_OPENED,
    events.BREAKER_HALF_OPEN,
    events.BREAKER_CLOSED,
    events.BREAKER_ISOLATED,
    events.RESOLVED,
    events.PARKED,
    events.LETTERS_EXPIRED,
    events.REPLAY_STOPPED,
    events.AGENT_UP,
    events.AGENT_DEAD,
    events.AGENT_FENCED,
    events.RECLAIMED,
    events.SWEEP_FALLBACK,
    events.WORKFLOW_STARTED,
    events.WORKFLOW_ENDED,
    events.WORKFLOW_REVIVED,
    events.WORKFLOW_PAUSED,
    events.WORKFLOW_RESUMED,
    events.WORKFLOW_CANCELLED,
)

#: Ends of a message that Celery does not know of; without our word Flower would show it as running for ever.
_UNKNOWN_TO_CELERY: Final = frozenset({"poison", "workers lost", "mailbox overflow"})


class CeleryEventsHandler:
    """Sends ``orchestrator-<event>`` with the event's fields, and ``task-failed`` where Celery sends none.

    ``send`` is the worker's event dispatcher's; it does nothing where events are switched off. In texts the values of
    the ``hidden`` fields are masked.
    """

    def __init__(self, send: Callable[..., Any], hidden: Iterable[str] = ()) -> None:
        self._send = send
        self._hidden = tuple(hidden)
        self._pid = os.getpid()

    def __call__(self, event: Event) -> None:
        """Send one event."""
        if os.getpid() != self._pid:
            # A pool's process that was forked later has this handler too, and the connection of its parent.
            return
        metadata = mask(dict(event.metadata), self._hidden)
        self._send(f"orchestrator-{event.name}", **metadata, **event.measurements)
        if event.name == events.DEAD_LETTERED and event.metadata.get("id") and self._is_news(event):
            self._send(
                "task-failed",
                uuid=event.metadata["id"],
                exception=f"DeadLetter({metadata['reason']!r}, {metadata['error']!r})",
                traceback="",
            )

    def _is_news(self, event: Event) -> bool:
        return event.metadata.get("reason") in _UNKNOWN_TO_CELERY
