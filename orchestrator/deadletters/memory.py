"""The dead-letter log of eager mode: the same letters, kept in this process, gone with it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.errors import UnknownDeadLetter
from orchestrator.deadletters.letter import DeadLetter, read_letter, renewed
from orchestrator.telemetry import emit, events


class MemoryDeadLetters:
    """Implements :class:`~orchestrator.deadletters.log.DeadLetters`."""

    def __init__(self, send_again: Callable[[str, bytes], None]) -> None:
        self._send_again = send_again
        self._letters: dict[str, DeadLetter] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def add(self, raw: bytes, letter: Mapping[str, Any]) -> str:
        """Keep a message; returns the letter's id."""
        letter_id = f"{letter.get('at', 0)}-{next(self._numbers)}"
        fields = {b"m": raw, b"letter": json.dumps(dict(letter)).encode()}
        with self._lock:
            self._letters[letter_id] = read_letter(letter_id, fields)
        return letter_id

    def list(self, limit: int = 50, *, before: str | None = None) -> list[DeadLetter]:
        """Newest first; ``before`` an id for the next page."""
        with self._lock:
            newest_first = list(reversed(self._letters.values()))
        if before is not None:
            ids = [letter.id for letter in newest_first]
            if before not in ids:
                raise UnknownDeadLetter(before)
            newest_first = newest_first[ids.index(before) + 1 :]
        return newest_first[:limit]

    def count(self) -> int:
        """How many there are."""
        return len(self._letters)

    def get(self, letter_id: str) -> DeadLetter:
        """One letter."""
        try:
            return self._letters[letter_id]
        except KeyError:
            raise UnknownDeadLetter(letter_id) from None

    def retry(self, letter_id: str) -> str:
        """Send it again, at once and inline."""
        with self._lock:
            letter = self._letters.pop(letter_id, None)
        if letter is None:
            raise UnknownDeadLetter(letter_id)
        emit(events.REPLAYED, letter_id=letter.id, queue=letter.queue)
        self._send_again(letter.queue, renewed(letter))
        return letter.queue

    def purge(self) -> int:
        """Remove all."""
        with self._lock:
            removed = len(self._letters)
            self._letters.clear()
        emit(events.PURGED, {"count": removed})
        return removed
