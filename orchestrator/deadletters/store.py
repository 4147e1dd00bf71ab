"""The storage of the dead-letter log, in four narrow protocols.

Implemented in Redis (:mod:`.redis.store`), and for eager mode in memory (:mod:`.in_memory.store`). Searches are bounded
by ids as in XRANGE: ``-``, ``+``, and ``(`` in front of an id that is not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from orchestrator.core.errors import CircuitOpen, MailboxFull, RunEnded, StepGoesOn
from orchestrator.core.secrets.masked_repr import summary

#: Why letters were not replayed.
Refusal: TypeAlias = MailboxFull | CircuitOpen | RunEnded | StepGoesOn

#: Letters replayed, removed or parked in one step, so that no step holds Redis for more than a few milliseconds.
BATCH = 100

#: Candidates that one step of a search reads at most.
CANDIDATES_PER_STEP = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one step of a search."""

    ids: tuple[str, ...]
    #: Id after which the search continues; empty at the end.
    cursor: str
    examined: int


@dataclass(frozen=True, slots=True)
class ReplayedLetter:
    """One letter that was replayed."""

    letter_id: str
    queue: str
    #: The id of its entry in the mailbox.
    entry: str = ""
    #: The delivery that the message is; empty for plain Celery messages.
    delivery_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """Letters replayed to one mailbox. The sequences are parallel."""

    queue: str
    letter_ids: Sequence[str]
    #: Known only for letters whose outcome is watched.
    entries: Sequence[str] = ()
    delivery_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RefusedLetters:
    """Letters that were not replayed for the same reason; they stay in the log."""

    letter_ids: Sequence[str]
    why: Refusal


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of one replay step. A letter in neither list was not in the log, or names no queue."""

    batches: tuple[ReplayBatch, ...] = ()
    #: Letters that flow control refused, or their runs.
    refusals: tuple[RefusedLetters, ...] = ()
    #: Number of letters processed, refused and missing ones included.
    processed: int = 0
    #: Lower bound with which the search for letters continues; empty at the end.
    next_low: str = ""

    @property
    def count(self) -> int:
        """Number of letters replayed."""
        return sum(len(batch.letter_ids) for batch in self.batches)

    @property
    def refused_count(self) -> int:
        """Number of letters refused."""
        return sum(len(refused.letter_ids) for refused in self.refusals)

    def each(self) -> Iterator[ReplayedLetter]:
        """The replayed letters, one by one."""
        for batch in self.batches:
            for at, letter_id in enumerate(batch.letter_ids):
                entry = batch.entries[at] if batch.entries else ""
                delivery_id = batch.delivery_ids[at] if batch.delivery_ids else ""
                yield ReplayedLetter(letter_id, batch.queue, entry, delivery_id)


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """The number of replayed letters that have ended."""

    ended: int
    #: Those among them that ended dead without a new letter, because their policy keeps none.
    dead_without_letter: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """The record of one action on dead letters."""

    id: str
    #: ``replay``, ``edit``, ``park``, ``unpark``, ``purge``, ``export``, ``import``, ``expire`` or ``trim``.
    kind: str
    who: str
    why: str
    at_ms: int
    detail: Mapping[str, Any] = field(default_factory=dict)
    #: Letters processed so far, and replayed ones that are dead again. Kept for a week, then ``None``.
    done: int | None = 0
    dead: int | None = 0

    def __repr__(self) -> str:
        return summary(self, ("id", "kind", "who", "why", "detail", "done", "dead"))


#: A letter's id, its fields, and its parking note (empty unless parked).
Row = tuple[str, Mapping[bytes, bytes], bytes]


class LetterReader(Protocol):
    """Reads letters."""

    def now_ms(self) -> int:
        """The clock that letter ids are made by, in ms since 1970."""
        ...

    def size(self) -> int:
        """Number of letters."""
        ...

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """Number of letters that have all of these values of dimensions."""
        ...

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values of a dimension among letters that have all values in ``indexed``; the most recent first.

        Lazy: reads more only when more is consumed.
        """
        ...

    def arrivals(self, group: str) -> Mapping[int, int]:
        """Hour since 1970 -> letters of the group that arrived in it, removed ones included."""
        ...

    def find(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        *,
        limit: int,
        oldest_first: bool,
    ) -> Found:
        """Do one step of a search from the id ``low`` to ``high``; the next one begins at the result's ``cursor``."""
        ...

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The rows of those ids that are in the log."""
        ...

    def newest(self, limit: int, below: str) -> list[Row]:
        """Rows, newest first; ``below`` as XREVRANGE takes it."""
        ...


class LetterEditor(Protocol):
    """Parks, removes and imports letters, and keeps the audit log."""

    #: Largest message in bytes, as it is stored; 0 for no limit.
    max_message_bytes: int

    def add_audit_entry(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """Record that an action begins; returns the audit entry's id."""
        ...

    def remove_audit_entry(self, audit_id: str) -> None:
        """Remove the entry of an action that had no effect."""
        ...

    def audit_entries(self, limit: int) -> list[AuditEntry]:
        """Audit entries, newest first."""
        ...

    def add_done(self, audit_id: str, count: int) -> None:
        """Add to the letters that an action has processed."""
        ...

    def park(self, ids: Sequence[str], audit_id: str, note: str) -> list[str]:
        """Park letters; returns the ids of those that were open."""
        ...

    def unpark(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Open parked letters; returns the ids of those that were parked."""
        ...

    def remove(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Remove letters; returns the ids of those that were in the log."""
        ...

    def import_rows(self, rows: Sequence[Row], audit_id: str) -> list[str]:
        """Add letters of another log, except those that are in this one; returns the new ids."""
        ...


class LetterReplayer(Protocol):
    """Replays letters and reports what becomes of them."""

    def replay(
        self, ids: Sequence[str], audit_id: str, *, auto: bool, watched: bool, replacement: bytes = b""
    ) -> ReplayResult:
        """Move letters from the log to their mailboxes, as many as flow control admits.

        The previous outcomes of their deliveries are forgotten. ``watched``: the next outcome is recorded even if the
        sender asked for none. ``replacement``: sent instead of the letter's message.
        """
        ...

    def replay_found(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        audit_id: str,
        *,
        limit: int,
        watched: bool,
    ) -> ReplayResult | None:
        """Find the next letters, oldest first, and replay each in the step that finds it; else as :meth:`replay`.

        Returns ``None`` if this search cannot be combined with replaying: find the ids first.
        """
        ...

    def replay_progress(self, replayed: Sequence[ReplayedLetter]) -> ReplayProgress:
        """The number of these letters, which were replayed ``watched``, that have ended."""
        ...

    def count_dead_again(self, audit_id: str) -> int:
        """Number of letters replayed by this action that are dead letters again."""
        ...

    def add_dead_again(self, audit_id: str, count: int) -> None:
        """Add replayed letters that died again without a new letter, which nothing else counts."""
        ...


class ReplaySchedule(Protocol):
    """Schedules automatic replays, and remembers how far expiry has come."""

    def schedule(self, max_replays: int, first_ms: int, reasons: Sequence[str], limit: int) -> tuple[int, list[str]]:
        """Schedule automatic replays of at most ``limit`` letters that were not examined before.

        Returns how many it examined, and the ids of letters whose automatic replays are used up.
        """
        ...

    def due(self, limit: int) -> list[str]:
        """Ids of letters whose automatic replay is due."""
        ...

    def postpone(self, ids: Sequence[str], delay_ms: int) -> None:
        """Make scheduled replays due ``delay_ms`` from now; ids without one are ignored."""
        ...

    def unschedule(self, ids: Sequence[str]) -> None:
        """Cancel scheduled replays."""
        ...

    def expiry_cursor(self) -> str:
        """Id up to which the current round of expiry has come; empty at its beginning."""
        ...

    def save_expiry_cursor(self, letter_id: str) -> None:
        """Store :meth:`expiry_cursor`."""
        ...


class DeadLetterStore(LetterReader, LetterEditor, LetterReplayer, ReplaySchedule, Protocol):
    """All four, as :class:`~.log.DeadLetters` is given them. A method is one atomic step unless letters are large."""
