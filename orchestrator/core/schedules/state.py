"""The state of a schedule between two decisions, and what a decision consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The state of a schedule. Times are in ms since 1970, by Redis' clock."""

    #: The first nominal time that nothing was decided about; ``None``: the schedule has ended.
    next_ms: int | None
    #: When to decide next: the nominal time with its jitter, later after a refusal; ``None``: not before something else
    #: happens.
    due_ms: int | None
    #: What intervals are counted from.
    anchor_ms: int = 0
    #: No nominal time is computed from a moment before this one, because another trigger was in force then.
    floor_ms: int = 0
    #: How often the schedule was changed, paused or resumed.
    rev: int = 1
    #: Fires that count towards ``max_runs``.
    runs: int = 0
    #: Why the schedule is paused; empty if it is not.
    paused: str = ""
    paused_ms: int = 0
    #: The delivery whose outcome the schedule waits for; empty if overlap is allowed, or if there is none.
    running: str = ""
    #: The nominal time that waits for the outcome of ``running``.
    buffered_ms: int | None = None
    #: Why the last attempt to fire the next nominal time was refused (``mailbox full``, ``breaker open``).
    refused: str = ""
    #: The last nominal time that was decided.
    last_ms: int | None = None

    def to_fields(self) -> dict[str, str]:
        """As fields of a Redis hash, without those that have their default."""
        return {
            f.name: "" if (value := getattr(self, f.name)) is None else str(value)
            for f in fields(self)
            if f.name in ("next_ms", "due_ms") or getattr(self, f.name) != f.default
        }

    @classmethod
    def from_fields(cls, stored: Mapping[str, str]) -> ScheduleState:
        """Inverse of :meth:`to_fields`; other fields are ignored.

        Raises:
            ValueError: a field holds something else.
        """

        def number(name: str, default: int = 0) -> int:
            return int(stored.get(name) or default)

        def moment(name: str) -> int | None:
            return int(stored[name]) if stored.get(name) else None

        return cls(
            moment("next_ms"),
            moment("due_ms"),
            number("anchor_ms"),
            number("floor_ms"),
            number("rev", 1),
            number("runs"),
            stored.get("paused", ""),
            number("paused_ms"),
            stored.get("running", ""),
            moment("buffered_ms"),
            stored.get("refused", ""),
            moment("last_ms"),
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """The ledger of a schedule's nominal times, as increments: ``due = fired + coalesced + missed + skipped``."""

    fired: int = 0
    coalesced: int = 0
    missed: int = 0
    skipped: int = 0

    @property
    def due(self) -> int:
        """The sum of the others."""
        return self.fired + self.coalesced + self.missed + self.skipped


@dataclass(frozen=True, slots=True)
class Fire:
    """A message to be accepted for one nominal time."""

    nominal_ms: int
    delivery_id: str
    #: Nominal times before this one that are coalesced into it.
    coalesced: int = 0


class Fate(StrEnum):
    """The end of a nominal time."""

    FIRED = "fired"
    COALESCED = "coalesced"
    MISSED = "missed"
    SKIPPED = "skipped"
    #: It waits for the outcome of the fire before it; what becomes of it is recorded later.
    BUFFERED = "buffered"


@dataclass(frozen=True, slots=True)
class Record:
    """An entry of the history: what became of the nominal times from ``first_ms`` to ``last_ms``."""

    fate: Fate
    first_ms: int
    last_ms: int
    count: int
    #: Why, for what was missed, skipped or fired beside the plan.
    reason: str = ""
    #: The nominal time into which these were coalesced.
    into_ms: int | None = None
    delivery_id: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a schedule: one step. ``state`` holds once the fire, if there is one, has been accepted."""

    state: ScheduleState
    fire: Fire | None = None
    records: tuple[Record, ...] = ()

    @property
    def counts(self) -> Counts:
        """The changes of the step to the ledger."""
        by_fate = dict.fromkeys(Fate, 0)
        for record in self.records:
            by_fate[record.fate] += record.count
        return Counts(*(by_fate[fate] for fate in (Fate.FIRED, Fate.COALESCED, Fate.MISSED, Fate.SKIPPED)))


def delivery_id_of(schedule_id: str, nominal_ms: int, occasion: str = "") -> str:
    """The id of the delivery of a schedule's nominal time: the same, whoever fires it and how often.

    ``occasion`` tells fires apart that are made beside the plan: a trigger by hand, a backfill.
    """
    digest = hashlib.blake2b(f"{nominal_ms} {occasion}\0{schedule_id}".encode(), digest_size=16).digest()
    text = digest.hex()
    # The form of a UUID of version 8, as Celery's ids have that of version 4.
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{'89ab'[digest[8] & 3]}{text[17:20]}-{text[20:]}"


def jitter_ms_of(schedule_id: str, nominal_ms: int, bound_ms: int) -> int:
    """The delay of a nominal time, from 0 to less than ``bound_ms``: always the same for the same schedule and time."""
    if bound_ms <= 1:
        return 0
    digest = hashlib.blake2b(f"{nominal_ms} jitter\0{schedule_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % bound_ms
