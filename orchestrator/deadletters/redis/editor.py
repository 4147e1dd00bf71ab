"""Parking, removing and importing dead letters in Redis, and the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.core.stored_values import stored_text
from orchestrator.deadletters.letter import (
    FIELD_AGENT,
    FIELD_DEATHS,
    FIELD_ERROR,
    FIELD_GROUP,
    FIELD_LETTER,
    FIELD_LINEAGE,
    FIELD_MESSAGE,
    FIELD_NAME,
    FIELD_ORIGIN,
    FIELD_QUEUE,
    FIELD_REASON,
    FIELD_SENT_MS,
)
from orchestrator.deadletters.redis.letters import PROGRESS_TTL_MS, RedisLetters, decode_ids
from orchestrator.deadletters.store import AuditEntry, Row
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Call

#: Audit entries kept.
_AUDIT_ENTRIES = 10_000

#: The order in which ``import_letters.lua`` takes a letter's fields.
_IMPORTED_FIELDS = (
    *(FIELD_MESSAGE, FIELD_LETTER, FIELD_DEATHS, FIELD_QUEUE, FIELD_AGENT, FIELD_NAME, FIELD_ERROR, FIELD_REASON),
    *(FIELD_GROUP, FIELD_LINEAGE, FIELD_SENT_MS, FIELD_ORIGIN),
)

#: Bytes of letters that one step imports at most, unless a single letter is larger.
_IMPORTED_BYTES_PER_STEP = 1024 * 1024


class RedisLetterEditor(RedisLetters):
    """Implements :class:`~.store.LetterEditor`."""

    def add_audit_entry(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """Record that an action begins; returns the audit entry's id. Two round trips."""

        def write() -> str:
            fields: Any = {"kind": kind, "who": who, "why": why, "detail": json.dumps(dict(detail))}
            added: Any = self._store.client.xadd(self._k.letter_audit, fields, maxlen=_AUDIT_ENTRIES, approximate=True)
            audit_id: str = added.decode()
            with self._store.client.pipeline(transaction=False) as pipe:
                pipe.hset(self._k.letter_audit_progress(audit_id), "done", "0")
                pipe.pexpire(self._k.letter_audit_progress(audit_id), PROGRESS_TTL_MS)
                pipe.execute()
            return audit_id

        return str(self._call(write))

    def remove_audit_entry(self, audit_id: str) -> None:
        """Remove the entry of an action that had no effect."""

        def remove() -> None:
            with self._store.client.pipeline() as pipe:
                pipe.xdel(self._k.letter_audit, audit_id)
                pipe.delete(self._k.letter_audit_progress(audit_id))
                pipe.execute()

        self._call(remove)

    def audit_entries(self, limit: int) -> list[AuditEntry]:
        """Audit entries, newest first."""

        def read() -> list[AuditEntry]:
            entries: Any = self._store.client.xrevrange(self._k.letter_audit, count=limit)
            with self._store.client.pipeline(transaction=False) as pipe:
                for entry, _ in entries:
                    pipe.hmget(self._k.letter_audit_progress(entry.decode()), "done", "dead")
                progress = pipe.execute()
            return [
                _audit_entry(entry.decode(), fields, *counts)
                for (entry, fields), counts in zip(entries, progress, strict=True)
            ]

        found: list[AuditEntry] = self._call(read)
        return found

    def add_done(self, audit_id: str, count: int) -> None:
        """Add to the letters that an action has processed. One round trip."""
        self._add_progress(audit_id, "done", count)

    def park(self, ids: Sequence[str], audit_id: str, note: str) -> list[str]:
        """Park letters; returns the ids of those that were open."""
        return self._run_to_end(lambda left: commands.park_letters(self._k, left, audit_id=audit_id, note=note), ids)

    def unpark(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Open parked letters; returns the ids of those that were parked."""
        return decode_ids(self._store.run(*commands.unpark_letters(self._k, ids, audit_id=audit_id)))

    def remove(self, ids: Sequence[str], audit_id: str) -> list[str]:
        """Remove letters; returns the ids of those that were in the log."""
        return self._run_to_end(lambda left: commands.purge_letters(self._k, left, audit_id=audit_id), ids)

    def _run_to_end(self, call: Callable[[Sequence[str]], Call], ids: Sequence[str]) -> list[str]:
        """Call a script until it has processed all ids; a call may process some of them. Returns the ids it changed."""
        changed: list[str] = []
        left = ids
        while left:
            processed, *some = self._store.run(*call(left))
            changed += decode_ids(some)
            left = left[int(processed) :]
        return changed

    def import_rows(self, rows: Sequence[Row], audit_id: str) -> list[str]:
        """Add letters of another log; returns the new ids."""
        added: list[str] = []
        step: list[list[bytes]] = []
        size = 0
        for number, (_, fields, note) in enumerate(rows, 1):
            values = [*(fields.get(name, b"") for name in _IMPORTED_FIELDS), note]
            step.append(values)
            size += sum(map(len, values))
            if size >= _IMPORTED_BYTES_PER_STEP or number == len(rows):
                added += decode_ids(self._store.run(*commands.import_letters(self._k, step, audit_id=audit_id)))
                step, size = [], 0
        return added


def _audit_entry(audit_id: str, fields: Mapping[bytes, bytes], done: bytes | None, dead: bytes | None) -> AuditEntry:
    text = {stored_text(name): stored_text(value) for name, value in fields.items()}
    return AuditEntry(
        id=audit_id,
        kind=text.get("kind", ""),
        who=text.get("who", ""),
        why=text.get("why", ""),
        at_ms=int(audit_id.split("-")[0]),
        detail=json.loads(text.get("detail") or "{}"),
        done=None if done is None else int(done),
        # Written with the first letter that is dead again.
        dead=None if done is None else int(dead or 0),
    )
