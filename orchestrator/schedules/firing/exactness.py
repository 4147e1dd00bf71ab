"""Finds the schedules whose messages the script of a fire cannot accept, and other limits of a schedule's fires."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from celery import Celery
from celery.beat import ScheduleEntry

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.values import Source, TaskRecipient
from orchestrator.schedules.declared.entry_options import ELSEWHERE
from orchestrator.sending.celery_sends import has_own_way

_BOUND: Final = "only a scheduler whose code declares it fires it"


def why_sent_elsewhere(app: Celery, definition: ScheduleDefinition, options: Mapping[str, Any]) -> str:
    """The reason why no script can accept a schedule's messages in the step of its fire; empty if one can.

    ``options`` are those of an entry whose values only code has.
    """
    recipient = definition.recipient
    if not isinstance(recipient, TaskRecipient):
        return ""
    task = app.tasks.get(recipient.task)
    if any(options.get(name) is not None for name in ELSEWHERE):
        return "its options name another connection"
    if task is not None and has_own_way(task):
        return f"{recipient.task} sends its messages itself, by an apply_async of its own"
    queue = options.get("queue") or recipient.options.get("queue") or getattr(task, "queue", None)
    if _is_fanout(app, queue):
        return f"each worker reads a copy from queue {getattr(queue, 'alias', None) or queue}"
    return ""


def _is_fanout(app: Celery, queue: Any) -> bool:
    if isinstance(queue, str):
        queues = app.amqp.queues
        # A Broadcast has its name as an alias.
        queue = queues.aliases.get(queue) or queues.get(queue)
    return getattr(getattr(queue, "exchange", None), "type", "") == "fanout"


def why_not_exactly_once(app: Celery, definition: ScheduleDefinition) -> str:
    """The reason why a fire may be accepted twice, if a scheduler dies at the wrong moment; empty if it cannot."""
    return why_sent_elsewhere(app, definition, _options_in_code(app, definition))


def note_of(app: Celery, definition: ScheduleDefinition, is_agents: Callable[[str], bool]) -> str:
    """Other remarks on a schedule's fires; ``is_agents`` says whether a task is an agent's message."""
    if definition.is_code_bound:
        return _BOUND
    recipient = definition.recipient
    if isinstance(recipient, TaskRecipient) and recipient.task not in app.tasks and not is_agents(recipient.task):
        return f"this app has no task {recipient.task!r}; it is sent by its name"
    return ""


def _options_in_code(app: Celery, definition: ScheduleDefinition) -> Mapping[str, Any]:
    """The options of the entry that declares a schedule, which Redis has only if they are JSON data."""
    recipient = definition.recipient
    if definition.source is Source.STATIC and isinstance(recipient, TaskRecipient) and recipient.is_lazy:
        entry = (app.conf.beat_schedule or {}).get(definition.id)
        found = entry.options if isinstance(entry, ScheduleEntry) else (entry or {}).get("options")
        return found or {}
    return getattr(recipient, "options", {})
