"""The description of a schedule: its definition, its state, its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.options import to_datetime
from orchestrator.core.schedules.state import Counts, ScheduleState
from orchestrator.core.schedules.values import Source
from orchestrator.core.secrets.masked_repr import summary
from orchestrator.schedules.redis.stored import StoredSchedule


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it is now."""

    id: str
    #: ``None`` if it cannot be read; ``broken`` says why.
    definition: ScheduleDefinition | None
    state: ScheduleState
    counts: Counts = field(default_factory=Counts)
    #: The app of a static schedule, or the incarnation that owns it; empty for one that was added at run time.
    owner: str = ""
    #: Why it is set aside; empty if it is not.
    broken: str = ""
    #: Why it has ended; empty if it has not.
    ended: str = ""
    #: Its definition as Redis has it.
    text: str = field(default="", repr=False)

    def __repr__(self) -> str:
        return summary(self, ("id", "state", "counts", "owner", "broken", "ended"))

    @property
    def source(self) -> Source:
        """Whether it was declared in code, added at run time, or is owned by an incarnation."""
        return Source.DYNAMIC if self.definition is None else self.definition.source

    @property
    def next_at(self) -> datetime | None:
        """Its next nominal time, as :meth:`Schedule.preview` has it; ``None`` if it has none."""
        return self._moment(self.state.next_ms)

    @property
    def last_at(self) -> datetime | None:
        """The last nominal time that was decided; ``None`` if none was."""
        return self._moment(self.state.last_ms)

    def _moment(self, at_ms: int | None) -> datetime | None:
        trigger = self.definition.trigger if self.definition is not None else None
        return None if at_ms is None else to_datetime(at_ms, getattr(trigger, "tz", "UTC"))

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return bool(self.state.paused)


def info_of(stored: StoredSchedule) -> ScheduleInfo:
    """The description of a stored schedule."""
    broken = stored.broken
    try:
        definition: ScheduleDefinition | None = stored.definition()
    except InvalidSchedule as error:
        definition, broken = None, broken or str(error)
    try:
        state = stored.state
    except ValueError as error:
        state, broken = ScheduleState(None, None), broken or str(error)
    return ScheduleInfo(
        stored.id,
        definition,
        state,
        counts_in(stored.fields),
        stored.fields.get("o", "").partition(":")[2],
        broken,
        stored.fields.get("e", ""),
        stored.text,
    )


def counts_in(fields: Mapping[str, str]) -> Counts:
    """A schedule's ledger, by the fields of its state."""
    fired, coalesced, missed, skipped = (_number(fields.get(letter)) for letter in "fcmk")
    return Counts(fired, coalesced, missed, skipped)


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
