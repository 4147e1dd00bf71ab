"""Shared by the parts of eager mode's dead-letter log: the letters, in this process' memory, and the clock."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from orchestrator.deadletters.letter import (
    FIELD_GROUP,
    FIELD_ORIGIN,
)
from orchestrator.deadletters.letter_ids import order
from orchestrator.deadletters.store import (
    AuditEntry,
)

_HOUR_MS = 3_600_000


class InMemoryLetters:
    """Base of the classes that implement the protocols of :mod:`orchestrator.deadletters.store`.

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
        #: Letters whose watched replay died without a new letter, until ``replay_progress`` has returned them.
        self._dead_without_letter: set[str] = set()
        self._last_id = (0, 0)
        self._lock = threading.RLock()

    def now_ms(self) -> int:
        """The clock that ids are made by."""
        return self._clock()

    def _add(self, row: dict[bytes, bytes]) -> str:
        now = max(self._clock(), self._last_id[0])
        self._last_id = (now, self._last_id[1] + 1 if now == self._last_id[0] else 0)
        letter_id = f"{self._last_id[0]}-{self._last_id[1]}"
        self._rows[letter_id] = row
        self._arrivals.setdefault(row[FIELD_GROUP].decode(), Counter())[now // _HOUR_MS] += 1
        return letter_id

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
        if not any(other[FIELD_GROUP] == row[FIELD_GROUP] for other in self._rows.values()):
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
