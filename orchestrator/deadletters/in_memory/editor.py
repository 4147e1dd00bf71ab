"""Parking, removing and importing dead letters in eager mode, and the audit log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.deadletters.in_memory.letters import InMemoryLetters
from orchestrator.deadletters.letter import (
    FIELD_ORIGIN,
)
from orchestrator.deadletters.store import (
    AuditEntry,
    Row,
)


class InMemoryLetterEditor(InMemoryLetters):
    """Implements :class:`~.store.LetterEditor`."""

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
            return [replace(e, done=self._progress[e.id]["done"], dead=self._progress[e.id]["dead"]) for e in entries]

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
