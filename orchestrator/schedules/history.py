"""The history of a schedule's nominal times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from orchestrator.core.schedules.options import to_datetime
from orchestrator.core.schedules.state import Fate


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An entry of the history: the end of one nominal time, or of several in a row."""

    schedule: str
    fate: Fate
    first_ms: int
    last_ms: int
    count: int = 1
    reason: str = ""
    #: The nominal time into which these were coalesced.
    into_ms: int | None = None
    delivery: str = ""
    #: When it was decided, in ms by Redis' clock.
    at_ms: int = 0

    @property
    def scheduled_for(self) -> datetime:
        """The last of the nominal times."""
        return to_datetime(self.last_ms)

    @property
    def at(self) -> datetime:
        """The time of the decision."""
        return to_datetime(self.at_ms)


def entry_of(entry_id: str, fields: Mapping[str, str]) -> HistoryEntry | None:
    """An entry of the stream of fires; ``None`` if it is none."""
    try:
        last_ms = int(fields["n"])
        return HistoryEntry(
            fields["s"],
            Fate(fields["a"]),
            int(fields.get("i") or last_ms),
            last_ms,
            int(fields.get("c") or 1),
            fields.get("w", ""),
            int(fields["z"]) if fields.get("z") else None,
            fields.get("d", ""),
            int(entry_id.partition("-")[0]),
        )
    except (KeyError, ValueError):
        return None
