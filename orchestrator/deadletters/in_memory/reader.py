"""Reading and searching dead letters in eager mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.deadletters.in_memory.letters import InMemoryLetters
from orchestrator.deadletters.letter import (
    DIMENSIONS,
)
from orchestrator.deadletters.letter_ids import is_within
from orchestrator.deadletters.store import (
    Found,
    Row,
)


class InMemoryLetterReader(InMemoryLetters):
    """Implements :class:`~.store.LetterReader`."""

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


def _has_all(row: Mapping[bytes, bytes], indexed: Sequence[tuple[str, str]]) -> bool:
    return all(
        row.get(DIMENSIONS[dimension], b"") == value.encode("utf-8", "surrogatepass") for dimension, value in indexed
    )
