"""The dead-letter log of eager mode: the same letters, in this process' memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import CircuitOpen, MailboxFull, RunEnded, StepGoesOn
from orchestrator.deadletters.letter import (
    DIMENSIONS,
    FIELD_GROUP,
    FIELD_LINEAGE,
    FIELD_MESSAGE,
    FIELD_ORIGIN,
    FIELD_QUEUE,
    FIELD_REASON,
    delivery_of,
)
from orchestrator.deadletters.letter_ids import is_within, order
from orchestrator.deadletters.letter_row import audit_id_of, letter_row
from orchestrator.deadletters.replay_rules import auto_replays, lineage_after, replay_due_ms, replayed_message
from orchestrator.deadletters.store import (
    AuditEntry,
    Found,
    RefusedLetters,
    ReplayBatch,
    ReplayedLetter,
    ReplayProgress,
    ReplayResult,
    Row,
)

_HOUR_MS = 3_600_000


class InMemoryDeadLetterStore:
    """Implements :class:`~orchestrator.deadletters.store.DeadLetterStore`.

    ``send`` runs a message inline, unless flow control refuses it, and returns whether it died without a new letter;
    ``now_ms`` is the clock.
    """

    def __init__(
        self,
        send: Callable[[str, bytes], bool],
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self.max_message_bytes = 0
        self._send = send
        self._clock = now_ms
        self._rows: dict[str, dict[bytes, bytes]] = {}
        self._notes: dict[str, bytes] = {}
        self._due: dict[str, int] = {}
        self._origins: dict[str, str] = {}
        self._arrivals: dict[str, Counter[int]] = {}
        self._audit: dict[str, AuditEntry] = {}
        self._progress: dict[str, Counter[str]] = {}
        self._audit_numbers = itertools.count()
        #: Letters whose watched replay died without a new letter, until :meth:`replay_progress` has returned them.
        self._dead_without_letter: set[str] = set()
        self._last_id = (0, 0)
        self._last_scheduled = (0, 0)
        self._expiry_cursor = ""
        self._lock = threading.RLock()

    def add(self, raw: bytes, letter: Mapping[str, Any]) -> str:
        """Add a message that died, and why; returns the letter's id."""
        row = letter_row(raw, letter)
        with self._lock:
            if (progress := self._progress.get(audit_id_of(row))) is not None:
                progress["dead"] += 1
            return self._add(row)

    def _add(self, row: dict[bytes, bytes]) -> str:
        now = max(self._clock(), self._last_id[0])
        self._last_id = (now, self._last_id[1] + 1 if now == self._last_id[0] else 0)
        letter_id = f"{self._last_id[0]}-{self._last_id[1]}"
        self._rows[letter_id] = row
        self._arrivals.setdefault(row[FIELD_GROUP].decode(), Counter())[now // _HOUR_MS] += 1
        return letter_id

    # -- LetterReader

    def now_ms(self) -> int:
        """The clock that ids are made by."""
        return self._clock()

    def size(self) -> int:
        """Number of letters."""
        return len(self._rows)

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """Number of letters that have all of these values."""
        with self._lock:
            return sum(_has_all(row, indexed) for row in self._rows.values())

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values of a dimension, the most recent first."""
        with self._lock:
            rows = [row for row in reversed(self._rows.values()) if _has_all(row, indexed)]
        found = dict.fromkeys(row[DIMENSIONS[dimension]].decode() for row in rows)
        return (value for value in found if value)

    def arrivals(self, group: str) -> Mapping[int, int]:
        """Hour since 1970 -> letters of the group that arrived in it."""
        return dict(self._arrivals.get(group, {}))

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
        """Search from ``low`` to ``high``; one call examines all letters, where a store in Redis takes several."""
        with self._lock:
            ids = [
                letter_id
                for letter_id, row in self._rows.items()
                if is_within(letter_id, low, high)
                and _has_all(row, indexed)
                and (state == "all" or (state == "parked") is (letter_id in self._notes))
            ]
        if not oldest_first:
            ids.reverse()
        return Found(tuple(ids[:limit]), ids[limit - 1] if len(ids) > limit else "", len(ids))

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The rows of those ids that are in the log."""
        with self._lock:
            return [(i, self._rows[i], self._notes.get(i, b"")) for i in ids if i in self._rows]

    def newest(self, limit: int, below: str) -> list[Row]:
        """Rows, newest first."""
        with self._lock:
            return self.rows([i for i in reversed(self._rows) if is_within(i, "-", below)][:limit])

    # -- LetterEditor

    def add_audit_entry(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """Record that an action begins; returns the audit entry's id."""
        with self._lock:
            audit_id = f"{self._clock()}-{next(self._audit_numbers)}"
            self._audit[audit_id] = AuditEntry(audit_id, kind, who, why, self._clock(), dict(detail))
            self._progress[audit_id] = Counter()
            return audit_id

    def remove_audit_entry(self, audit_id: str) -> None:
        """Remove the entry of an action that had no effect."""
        with self._lock:
            self._audit.pop(audit_id, None)
            self._progress.pop(audit_id, None)

    def audit_entries(self, limit: int) -> list[AuditEntry]:
        """Audit entries, newest first."""
        with self._lock:
            entries = list(reversed(self._audit.values()))[:limit]
            return [replace(e, done=self._progress[e.id]["done"], dead=self.count_dead_again(e.id)) for e in entries]

    def add_done(self, audit_id: str, count: int) -> None:
        """Add to the letters that an action has processed."""
        with self._lock:
            self._progress[audit_id]["done"] += count

    def park(self, ids: Sequence[str], audit_id: str, note: str) -> list[str]:
        """Park letters; returns the ids of those that were open."""
        with self._lock:
            here = [i for i in ids if i in self._rows]
            opened = [i for i in here if i not in self._notes]
            for letter_id in here:
                self._notes[letter_id] = note.encode()
                self._due.pop(letter_id, None)
            self.add_done(audit_id, len(opened))
            return opened

    def unpark(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Open parked letters; returns the ids of those that were parked."""
        with self._lock:
            parked = [i for i in ids if self._notes.pop(i, None) is not None]
            self.add_done(audit_id, len(parked))
            return parked

    def remove(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Remove letters; returns the ids of those that were in the log."""
        with self._lock:
            here = [i for i in ids if i in self._rows]
            for letter_id in here:
                self._remove(letter_id)
            self.add_done(audit_id, len(here))
            return here

    def _remove(self, letter_id: str) -> Callable[[], None]:
        """Remove a letter and everything beside it; returns a function that restores all of that."""
        row = self._rows.pop(letter_id)
        origin, group = row.get(FIELD_ORIGIN, b"").decode(), row[FIELD_GROUP].decode()
        removed: list[tuple[dict[str, Any], str, Any]] = [
            (table, key, table.pop(key))
            for table, key in ((self._notes, letter_id), (self._due, letter_id), (self._origins, origin))
            if key in table
        ]
        arrivals = self._arrivals.get(group)
        if not self.size_of([("group", group)]):
            self._arrivals.pop(group, None)

        def restore() -> None:
            with self._lock:
                self._rows[letter_id] = row
                self._rows = dict(sorted(self._rows.items(), key=lambda item: order(item[0])))
                for table, key, value in removed:
                    table[key] = value
                if arrivals is not None:
                    self._arrivals.setdefault(group, arrivals)

        return restore

    def import_rows(self, rows: Sequence[Row], audit_id: str) -> list[str]:
        """Add letters of another log; returns the new ids."""
        added = []
        with self._lock:
            for _, fields, note in rows:
                origin = fields[FIELD_ORIGIN].decode()
                if origin in self._origins or origin in self._rows:
                    continue
                letter_id = self._origins[origin] = self._add(dict(fields))
                if note:
                    self._notes[letter_id] = note
                added.append(letter_id)
            self.add_done(audit_id, len(added))
        return added

    # -- LetterReplayer

    def replay(
        self, ids: Sequence[str], audit_id: str, *, auto: bool, watched: bool, replacement: bytes = b""
    ) -> ReplayResult:
        """Run letters' messages, at once and inline."""
        batches, refused = [], []
        for letter_id in ids:
            with self._lock:
                row = self._rows.get(letter_id)
                queue = row[FIELD_QUEUE].decode() if row else ""
                if row is None or not queue:
                    continue
                restore = self._remove(letter_id)
            lineage = lineage_after(letter_id, row.get(FIELD_LINEAGE, b""), audit_id, auto=auto)
            try:
                dead_without_letter = self._send(queue, replayed_message(replacement or row[FIELD_MESSAGE], lineage))
            except (MailboxFull, CircuitOpen, RunEnded, StepGoesOn) as error:
                restore()
                refused.append(RefusedLetters((letter_id,), error))
                continue
            except BaseException:
                restore()
                raise
            with self._lock:
                self.add_done(audit_id, 1)
                if dead_without_letter and watched:
                    self._dead_without_letter.add(letter_id)
            batches.append(ReplayBatch(queue, (letter_id,), (), (delivery_of(row[FIELD_MESSAGE]),)))
        return ReplayResult(tuple(batches), tuple(refused), len(ids))

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
    ) -> ReplayResult:
        """Find letters, then replay them."""
        found = self.find(indexed, state, low, high, limit=limit, oldest_first=True)
        next_low = f"({found.cursor}" if found.cursor else ""
        return replace(self.replay(found.ids, audit_id, auto=False, watched=watched), next_low=next_low)

    def replay_progress(self, replayed: Sequence[ReplayedLetter]) -> ReplayProgress:
        """All have ended: messages run inline."""
        with self._lock:
            dead = self._dead_without_letter & {one.letter_id for one in replayed}
            self._dead_without_letter -= dead
        return ReplayProgress(len(replayed), len(dead))

    def count_dead_again(self, audit_id: str) -> int:
        """Number of letters replayed by this action that are dead letters again."""
        return self._progress[audit_id]["dead"]

    def add_dead_again(self, audit_id: str, count: int) -> None:
        """Add replayed letters that died again without a new letter."""
        with self._lock:
            self._progress[audit_id]["dead"] += count

    # -- ReplaySchedule

    def schedule(self, max_replays: int, first_ms: int, reasons: Sequence[str], limit: int) -> tuple[int, list[str]]:
        """Schedule automatic replays; returns how many letters it examined, and the ids of those that are used up."""
        used_up = []
        with self._lock:
            new = [i for i in self._rows if order(i) > self._last_scheduled][:limit]
            for letter_id in new:
                self._last_scheduled = order(letter_id)
                row = self._rows[letter_id]
                if row[FIELD_REASON].decode() not in reasons or letter_id in self._notes:
                    continue
                auto = auto_replays(row[FIELD_LINEAGE])
                if auto >= max_replays:
                    used_up.append(letter_id)
                else:
                    self._due[letter_id] = replay_due_ms(order(letter_id)[0], first_ms, auto)
        return len(new), used_up

    def due(self, limit: int) -> list[str]:
        """Ids of letters whose automatic replay is due."""
        now = self._clock()
        with self._lock:
            return [i for i, at in sorted(self._due.items(), key=lambda item: item[1]) if at <= now][:limit]

    def postpone(self, ids: Sequence[str], delay_ms: int) -> None:
        """Make scheduled replays due ``delay_ms`` from now."""
        due_ms = self._clock() + delay_ms
        with self._lock:
            self._due.update((letter_id, due_ms) for letter_id in ids if letter_id in self._due)

    def unschedule(self, ids: Sequence[str]) -> None:
        """Cancel scheduled replays."""
        with self._lock:
            for letter_id in ids:
                self._due.pop(letter_id, None)

    def expiry_cursor(self) -> str:
        """Id up to which the current round of expiry has come; empty at its beginning."""
        return self._expiry_cursor

    def save_expiry_cursor(self, letter_id: str) -> None:
        """Store :meth:`expiry_cursor`."""
        self._expiry_cursor = letter_id


def _has_all(row: Mapping[bytes, bytes], indexed: Sequence[tuple[str, str]]) -> bool:
    return all(
        row.get(DIMENSIONS[dimension], b"") == value.encode("utf-8", "surrogatepass") for dimension, value in indexed
    )
