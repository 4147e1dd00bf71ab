"""The reply to a scheduler's look: whose turn it is, and the schedules that are due."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, Final, Self

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import decode_definition
from orchestrator.core.schedules.state import ScheduleState
from orchestrator.core.schedules.values import AgentRecipient, Recipient, TaskRecipient
from orchestrator.schedules.redis.stored_state import state_from

#: No schedule is due later: the year 9999 and the longest jitter end before.
_LAST_MS: Final = 300_000_000_000_000

#: Definitions that are kept, by their ids and texts.
_MOST_READ = 50_000


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule that is due, as Redis has it."""

    id: str
    due_ms: int
    text: str
    fields: Mapping[str, str]
    #: Why it cannot be read; empty if it can.
    fault: str = ""

    @property
    def shown_id(self) -> str:
        """Its id for people. An id that is not UTF-8 keeps its bytes as surrogates, which no log can write."""
        return self.id.encode("utf-8", "backslashreplace").decode()

    def state(self) -> ScheduleState:
        """Its state.

        Raises:
            InvalidSchedule: a field holds something else.
        """
        try:
            state = state_from(self.fields, self.due_ms)
        except ValueError as error:
            raise InvalidSchedule(self.id, [ScheduleFault("state", dict(self.fields), str(error))]) from None
        if not self.fields.get("r"):
            raise InvalidSchedule(self.id, [ScheduleFault("state", dict(self.fields), "a revision; was it evicted?")])
        if "\ufffd" in state.running:
            raise InvalidSchedule(self.id, [ScheduleFault("state", dict(self.fields), "the id of a delivery in u")])
        return state

    def check(self) -> None:
        """See that it could be read.

        Raises:
            InvalidSchedule: it could not, or its definition is gone.
        """
        if self.fault:
            raise InvalidSchedule(self.shown_id, [ScheduleFault("state", self.fault, "a schedule that can be read")])
        if not self.text:
            raise InvalidSchedule(self.id, [ScheduleFault("definition", "", "a text; was it evicted?")])


@dataclass(frozen=True, slots=True)
class Due:
    """The reply of ``due_schedules``."""

    is_mine: bool
    now_ms: int
    #: Milliseconds until there is something to do; ``None`` if nothing is scheduled.
    wait_ms: int | None
    mark: str
    number: int
    #: How many of them are due at any time.
    waiting: int
    #: Milliseconds until another scheduler's turn ends; 0 if it is nobody else's.
    others_ms: int
    #: Milliseconds since somebody scheduled; ``None`` if nobody has.
    since_ms: int | None
    schedules: Sequence[DueSchedule]

    def rest(self, after: int) -> Self:
        """These due schedules without the first ``after`` of them."""
        return replace(self, schedules=self.schedules[after:])

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Self:
        """Read a reply."""
        mine, now_ms, wait_ms, mark, number, others_ms, since_ms, waiting, *schedules = reply
        return cls(
            bool(mine),
            now_ms,
            None if wait_ms < 0 else wait_ms,
            mark.decode(),
            number,
            waiting,
            others_ms,
            None if since_ms < 0 else since_ms,
            [_schedule(item) for item in schedules],
        )


NOTHING_DUE: Final = Due(False, 0, None, "", 0, 0, 0, None, ())


def _schedule(item: Sequence[bytes]) -> DueSchedule:
    raw_id, *rest = item
    # The id names what is removed, and so keeps its bytes.
    id_ = raw_id.decode("utf-8", "surrogateescape")
    due, fault, text, *pairs = (value.decode("utf-8", "replace") for value in rest)
    due_ms = float(due)
    if not math.isfinite(due_ms) or abs(due_ms) > _LAST_MS:
        due_ms, fault = 0.0, fault or f"it is due at {due}, which is no time"
    if not id_.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in id_):
        fault = fault or "its id is not UTF-8"
    return DueSchedule(id_, int(due_ms), text, dict(zip(pairs[::2], pairs[1::2], strict=True)), fault)


class DefinitionCache:
    """Reads definitions. Most differ from another one in their arguments alone: what they share is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], ScheduleDefinition] = {}
        self._alike: dict[str, ScheduleDefinition] = {}

    def read(self, schedule_id: str, text: str) -> ScheduleDefinition:
        """The definition in a text.

        Raises:
            InvalidSchedule: it is none, or one of a newer version.
        """
        key = (schedule_id, text)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_READ:
                self._known.clear()
            known = self._known[key] = self._read(schedule_id, text)
        return known

    def _read(self, schedule_id: str, text: str) -> ScheduleDefinition:
        try:
            wire = json.loads(text)
            args, kwargs, fields = (
                wire.pop("args", _NOTHING),
                wire.pop("kwargs", _NOTHING),
                wire.pop("fields", _NOTHING),
            )
            rest = json.dumps(wire)
        except (ValueError, RecursionError, AttributeError, TypeError):
            return decode_definition(schedule_id, text)
        alike = self._alike.get(rest)
        if alike is None:
            if len(self._alike) >= _MOST_ALIKE:
                self._alike.clear()
            self._alike[rest] = definition = decode_definition(schedule_id, text)
            return definition
        recipient = alike.recipient
        if isinstance(recipient, TaskRecipient) and fields is _NOTHING:
            args, kwargs = _or(args, []), _or(kwargs, {})
            if isinstance(args, list) and isinstance(kwargs, dict):
                of_task = TaskRecipient(recipient.task, tuple(args), kwargs, recipient.options, recipient.is_lazy)
                return _like(alike, schedule_id, of_task)
        if isinstance(recipient, AgentRecipient) and args is _NOTHING and kwargs is _NOTHING:
            fields = _or(fields, {})
            if isinstance(fields, dict):
                return _like(alike, schedule_id, AgentRecipient(recipient.agent, recipient.message, fields))
        return decode_definition(schedule_id, text)


_NOTHING: Final = object()

#: Definitions that others share all but their arguments with.
_MOST_ALIKE: Final = 1000

_NAMES: Final = tuple(f.name for f in dataclass_fields(ScheduleDefinition))


def _or(value: Any, default: Any) -> Any:
    return default if value is _NOTHING else value


def _like(alike: ScheduleDefinition, schedule_id: str, recipient: Recipient) -> ScheduleDefinition:
    """A copy of a definition with another id and recipient, which are JSON data; all else is checked already."""
    made = object.__new__(ScheduleDefinition)
    for name in _NAMES:
        object.__setattr__(made, name, getattr(alike, name))
    object.__setattr__(made, "id", schedule_id)
    object.__setattr__(made, "recipient", recipient)
    return made
