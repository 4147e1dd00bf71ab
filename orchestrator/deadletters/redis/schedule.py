"""The schedule of automatic replays, and the cursor of expiry, in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.stored_values import stored_text
from orchestrator.deadletters.redis.letters import RedisLetters, decode_ids
from orchestrator.transport.redis import commands


class RedisReplaySchedule(RedisLetters):
    """Implements :class:`~.store.ReplaySchedule`."""

    def schedule(self, max_replays: int, first_ms: int, reasons: Sequence[str], limit: int) -> tuple[int, list[str]]:
        """Schedule automatic replays; returns how many letters it examined, and the ids of those that are used up."""
        call = commands.schedule_letters(
            self._k, limit=limit, max_replays=max_replays, first_ms=first_ms, reasons=reasons
        )
        examined, *used_up = self._store.run(*call)
        return int(examined), decode_ids(used_up)

    def due(self, limit: int) -> list[str]:
        """Ids of letters whose automatic replay is due."""
        now, key = self.now_ms(), self._k.letters_due
        found = self._call(lambda: self._store.client.zrangebyscore(key, "-inf", now, start=0, num=limit))
        return decode_ids(found)

    def postpone(self, ids: Sequence[str], delay_ms: int) -> None:
        """Make scheduled replays due ``delay_ms`` from now."""
        if ids:
            due_ms = self.now_ms() + delay_ms
            self._call(lambda: self._store.client.zadd(self._k.letters_due, dict.fromkeys(ids, due_ms), xx=True))

    def unschedule(self, ids: Sequence[str]) -> None:
        """Cancel scheduled replays."""
        if ids:
            self._call(lambda: self._store.client.zrem(self._k.letters_due, *ids))

    def expiry_cursor(self) -> str:
        """Id up to which the current round of expiry has come; empty at its beginning."""
        raw = self._call(lambda: self._store.client.get(self._k.letters_expired))
        return stored_text(raw) if raw else ""

    def save_expiry_cursor(self, letter_id: str) -> None:
        """Store :meth:`expiry_cursor`."""
        self._call(lambda: self._store.client.set(self._k.letters_expired, letter_id))
