"""Kinds of messages that fires send: what those of a kind have in common, and what the text of each is made from."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as encode_text
from typing import Any, Final

from pydantic_core import to_json

from orchestrator.agents.periodic import MISSED, SCHEDULE, SCHEDULED_FOR
from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.values import Overlap, Source, TaskRecipient
from orchestrator.schedules.redis.scripts import Written
from orchestrator.sending.messages.message_template import MessageTemplate
from orchestrator.sending.messages.message_texts import arguments_text
from orchestrator.sending.send_options import SILENT

#: Celery's own mark of a message that beat has sent.
BEAT_HEADER: Final = "celery_beat_task"

#: Stand for the schedule, the nominal time and the number of coalesced times in a text that is written once.
ANY_ID: Final = "@orchestrator:schedule@"
ANY_TIME: Final = "@orchestrator:scheduled-for@"
ANY_MISSED: Final = -1
_ANY_MISSED_TEXT: Final = f'"{MISSED}": {ANY_MISSED}'


@dataclass(frozen=True, slots=True)
class FireKind:
    """The parts that the messages of a kind have in common."""

    template: MessageTemplate
    queue: str
    own: str
    priority: str
    #: Names of fields whose values are masked.
    hidden: tuple[str, ...]

    def written(self, schedule: str, delivery: str, at: str, missed: int, args: Any, kwargs: Any) -> Written:
        """The message of one fire."""
        id_ = f'"{delivery}"'
        own = self.own.replace(ANY_TIME, at).replace(ANY_ID, encode_text(schedule)[1:-1])
        own = own.replace(_ANY_MISSED_TEXT, f'"{MISSED}": {missed}')
        text = self.template.render(
            id=id_,
            root=id_,
            parent="null",
            body=self.template.body(to_json(args), to_json(kwargs) if kwargs else b"{}"),
            args=encode_text(arguments_text(args, self.hidden)),
            kwargs=encode_text(arguments_text(kwargs, self.hidden)) if kwargs else _NO_KWARGS,
            own=own,
            priority=self.priority,
        )
        return Written(delivery, self.queue, self.template.level, text)


_NO_KWARGS: Final = '"{}"'


@lru_cache(maxsize=64)
def iso(ms: int) -> str:
    """A time as messages say it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_as_beat_sends(definition: ScheduleDefinition) -> bool:
    """Whether it is an entry of ``beat_schedule`` that does not ask for a supervised send."""
    is_entry = definition.source is Source.STATIC and isinstance(definition.recipient, TaskRecipient)
    return is_entry and definition.policy == SILENT and not definition.metadata


def beat_headers(definition: ScheduleDefinition, at: str) -> dict[str, Any]:
    """The headers that each entry of ``beat_schedule`` has."""
    if definition.source is Source.STATIC and isinstance(definition.recipient, TaskRecipient):
        return {BEAT_HEADER: True, SCHEDULED_FOR: at}
    return {}


def own_headers(schedule_id: str, headers: Mapping[str, Any], own: Mapping[str, Any], missed: int) -> dict[str, Any]:
    """The headers of an entry's message that are not Celery's; an agent sees the nominal time in its metadata."""
    supervision = headers.get(HEADER)
    if not isinstance(supervision, dict):
        return dict(own)
    metadata = {**supervision.get("metadata", {}), SCHEDULE: schedule_id, SCHEDULED_FOR: own[SCHEDULED_FOR]}
    metadata[MISSED] = missed
    return {**own, HEADER: {**supervision, "metadata": metadata}}


def arguments_of(definition: ScheduleDefinition) -> tuple[list[Any], Mapping[str, Any]]:
    """Positional and keyword arguments of a schedule's messages."""
    recipient = definition.recipient
    if isinstance(recipient, TaskRecipient):
        return list(recipient.args), recipient.kwargs
    return [recipient.fields], {}


def kind_key(definition: ScheduleDefinition) -> Hashable:
    """The parts that the messages of one kind have in common."""
    recipient = definition.recipient
    if isinstance(recipient, TaskRecipient):
        options = json.dumps(recipient.options, sort_keys=True, default=str) if recipient.options else ""
        names: tuple[str, ...] = (recipient.task, options)
    else:
        names = (recipient.agent, recipient.message)
    metadata = json.dumps(definition.metadata, sort_keys=True) if definition.metadata else ""
    waits = definition.overlap is not Overlap.ALLOW or definition.pause_on_failure
    return (definition.source is Source.STATIC, *names, definition.policy, metadata, waits)
