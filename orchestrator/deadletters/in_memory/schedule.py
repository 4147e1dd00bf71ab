"""The schedule of automatic replays, and the cursor of expiry, in eager mode."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.deadletters.in_memory.letters import InMemoryLetters
from orchestrator.deadletters.letter import (
    FIELD_LINEAGE,
    FIELD_REASON,
)
from orchestrator.deadletters.letter_ids import order
from orchestrator.deadletters.replay_rules import auto_replays, replay_due_ms


class InMemoryReplaySchedule(InMemoryLetters):
    """Implements :class:`~.store.ReplaySchedule`."""

    _last_scheduled = (0, 0)
    _expiry_cursor = ""

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
