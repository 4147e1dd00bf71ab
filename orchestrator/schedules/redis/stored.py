"""A schedule as a backend holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import decode_definition
from orchestrator.core.schedules.state import ScheduleState
from orchestrator.core.stored_values import whole_number
from orchestrator.schedules.redis.stored_state import state_from


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule: its definition's text, and its state in fields of one letter."""

    id: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    due_ms: int | None = None
    #: Why it is set aside; empty if it is not.
    broken: str = ""
    #: Why its state could not be read; empty if it could.
    fault: str = ""

    @property
    def rev(self) -> int:
        """Its revision."""
        return whole_number(self.fields.get("r", "")) or 0

    @property
    def state(self) -> ScheduleState:
        """Its state.

        Raises:
            ValueError: a field holds something else.
        """
        if self.fault:
            raise ValueError(self.fault)
        return state_from(self.fields, self.due_ms)

    def definition(self) -> ScheduleDefinition:
        """Its definition.

        Raises:
            InvalidSchedule: it cannot be read.
        """
        return decode_definition(self.id, self.text)
