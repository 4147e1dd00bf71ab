"""Where letters lie: what the log needs of Redis (:mod:`.stream`), or in eager mode of this process (:mod:`.memory`).

Ids bound a search as XRANGE has them: ``-``, ``+``, and ``(`` for what is not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.core.masked_repr import summary

#: Letters moved, removed or parked in one step, so that none holds Redis for more than a few milliseconds.
BATCH = 100

#: Candidates that one step of a search looks at.
LOOK = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """One step of a search."""

    ids: tuple[str, ...]
    #: Where to go on; empty at the end.
    cursor: str
    looked_at: int


@dataclass(frozen=True, slots=True)
class ReplayedLetter:
    """One letter that was sent again."""

    letter_id: str
    queue: str
    #: Where it lies in its mailbox.
    entry: str = ""
    #: The delivery that it is; empty for plain Celery messages.
    delivery_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """Letters that were sent again to one mailbox, and by place what :class:`ReplayedLetter` has of each."""

    queue: str
    letter_ids: Sequence[str]
    #: Known of those that somebody watches.
    entries: Sequence[str] = ()
    delivery_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of letters that were to be sent again. Those in neither list were not there, or name no queue."""

    batches: tuple[ReplayBatch, ...] = ()
    #: What flow control kept out: these stay letters.
    kept: tuple[str, ...] = ()
    #: Why it kept the first of them out; ``None`` if it kept out none.
    refusal: MailboxFull | CircuitOpen | None = None
    #: How many letters it came to, and the lower bound from which a search for them goes on; empty at the end.
    came_to: int = 0
    low: str = ""

    @property
    def count(self) -> int:
        """How many were sent."""
        return sum(len(lot.letter_ids) for lot in self.batches)

    def each(self) -> Iterator[ReplayedLetter]:
        """One by one."""
        for lot in self.batches:
            for at, letter_id in enumerate(lot.letter_ids):
                entry = lot.entries[at] if lot.entries else ""
                yield ReplayedLetter(letter_id, lot.queue, entry, lot.delivery_ids[at] if lot.delivery_ids else "")


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How letters that were sent again fare."""

    #: How many have come to an end.
    ended: int
    #: How many of those are dead and no letter tells of it, because their policy keeps none.
    silent: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that was done with letters."""

    id: str
    kind: str
    who: str
    why: str
    at_ms: int
    detail: Mapping[str, Any] = field(default_factory=dict)
    #: Letters it reached so far, and how many of those it sent again are dead anew. Known for a week, then ``None``.
    done: int | None = 0
    dead: int | None = 0

    def __repr__(self) -> str:
        return summary(self, ("id", "kind", "who", "why", "detail", "done", "dead"))


#: A letter's entry and its note (empty unless parked).
Row = tuple[str, Mapping[bytes, bytes], bytes]


class DeadLetterStore(Protocol):
    """Each method is one step, or several where letters are large, or reads only."""

    #: Most bytes of a message, as it lies here; 0 for no limit.
    max_message_bytes: int

    def now_ms(self) -> int:
        """The clock that ids are made by."""
        ...

    def size(self) -> int:
        """How many letters there are."""
        ...

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """How many there are with all of these values of dimensions."""
        ...

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values there are letters of, with all of those values of dimensions; the last to have come first.

        Asks for more only as more are taken.
        """
        ...

    def arrivals(self, group: str) -> Mapping[int, int]:
        """Hour since 1970 -> letters of the group that came in it, whatever became of them."""
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
        """One step of a search between two ids (as XRANGE takes them)."""
        ...

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Those of the letters that are there."""
        ...

    def newest(self, limit: int, below: str) -> list[Row]:
        """Newest first; ``below`` as XREVRANGE takes it."""
        ...

    def begin(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """Record that an act begins; returns its id."""
        ...

    def acts(self, limit: int) -> list[AuditEntry]:
        """Newest first."""
        ...

    def withdraw(self, act: str) -> None:
        """Forget an act that came to nothing."""
        ...

    def progress(self, act: str, field: str, count: int) -> None:
        """Add to how many letters an act has ``done``, or how many of those are ``dead`` anew."""
        ...

    def deaths_of(self, act: str) -> int:
        """How many of those that the act sent again are letters anew."""
        ...

    def replay(self, ids: Sequence[str], act: str, *, auto: bool, watched: bool, instead: bytes = b"") -> ReplayResult:
        """Send letters again, as many as flow control lets through.

        Whoever asks for a delivery's outcome no longer finds the one that the letter told of. ``watched``: its next
        outcome is recorded even if its sender wanted none.
        """
        ...

    def resend_found(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        act: str,
        *,
        limit: int,
        watched: bool,
    ) -> ReplayResult | None:
        """The next letters that a search finds, oldest first, each sent again in the step that finds it.

        Else as :meth:`replay`. ``None``: it does not do that for these; find them first.
        """
        ...

    def settled(self, sent: Sequence[ReplayedLetter]) -> ReplayProgress:
        """How these fare, which were sent again ``watched``."""
        ...

    def park(self, ids: Sequence[str], act: str, note: str) -> list[str]:
        """Put letters aside; returns those that were open."""
        ...

    def unpark(self, ids: Sequence[str], act: str) -> list[str]:
        """Make letters open; returns those that were parked."""
        ...

    def remove(self, ids: Sequence[str], act: str) -> list[str]:
        """Remove letters; returns those that were there."""
        ...

    def take_in(self, rows: Sequence[Row], act: str) -> list[str]:
        """Add letters of another log, unless they are here; returns the new ids."""
        ...

    def plan(self, most: int, first_ms: int, reasons: Sequence[str], look: int) -> tuple[int, list[str]]:
        """Plan automatic retries of letters not looked at yet; returns how many it looked at, and those to park."""
        ...

    def due(self, limit: int) -> list[str]:
        """Letters whose automatic retry is due."""
        ...

    def put_off(self, ids: Sequence[str], pause_ms: int) -> None:
        """Have planned retries be due that much later than now; what is not planned stays so."""
        ...

    def unplan(self, ids: Sequence[str]) -> None:
        """Forget planned retries."""
        ...

    def mark(self, value: str | None = None) -> str:
        """How far the last round of expiry came; with ``value``, note it."""
        ...
