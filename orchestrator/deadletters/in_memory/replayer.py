"""Replaying dead letters in eager mode: each at once and inline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.errors import CircuitOpen, MailboxFull, RunEnded, StepGoesOn
from orchestrator.deadletters.in_memory.reader import InMemoryLetterReader
from orchestrator.deadletters.letter import (
    FIELD_LINEAGE,
    FIELD_MESSAGE,
    FIELD_QUEUE,
    delivery_of,
)
from orchestrator.deadletters.replay_rules import lineage_after, replayed_message
from orchestrator.deadletters.store import (
    RefusedLetters,
    ReplayBatch,
    ReplayedLetter,
    ReplayProgress,
    ReplayResult,
)


class InMemoryLetterReplayer(InMemoryLetterReader):
    """Implements :class:`~.store.LetterReplayer`; it finds letters as its base does."""

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
                self._progress[audit_id]["done"] += 1
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
