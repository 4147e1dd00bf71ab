"""Searching dead letters by criteria, between two ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.deadletters.criteria import Criteria
from orchestrator.deadletters.letter import DeadLetter, read_letter
from orchestrator.deadletters.letter_ids import lower_bound
from orchestrator.deadletters.store import BATCH, Found, LetterReader

#: Letters that one page reads at most, where the criteria need letters to be read.
_READ_PER_PAGE = 20_000

#: Ids that one step of a search returns, where letters are processed in batches.
_IDS_PER_STEP = 500


@dataclass(frozen=True, slots=True)
class Page:
    """Some letters, newest first."""

    letters: tuple[DeadLetter, ...]
    #: ``before`` of the next page; ``None`` at the end. Letters added or removed meanwhile do not shift pages.
    before: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LetterSearch:
    """The letters that match some criteria; ``fixed`` bounds, if given, replace those of the ages."""

    _store: LetterReader
    _criteria: Criteria
    _hidden: tuple[str, ...]
    _fixed: tuple[str, str] | None

    def bounds(self) -> tuple[str, str]:
        """The lowest and the highest id that can match, by the fixed bounds or by the ages as of now."""
        if self._fixed is not None:
            return self._fixed
        older_than_s, newer_than_s = self._criteria.older_than_s, self._criteria.newer_than_s
        if older_than_s is None and newer_than_s is None:
            return "-", "+"
        now = self._store.now_ms()
        low = "-" if newer_than_s is None else str(max(0, now - round(newer_than_s * 1000)))
        high = "+" if older_than_s is None else str(max(0, now - round(older_than_s * 1000)))
        return low, high

    def bounds_now(self) -> tuple[str, str]:
        """As :meth:`bounds`, without letters that arrive later; the lower one is empty if there are no letters."""
        low, high = self.bounds()
        if high != "+":
            return low, high
        newest = self._store.newest(1, "+")
        return (low, newest[0][0]) if newest else ("", "")

    def bounds_until_now(self) -> tuple[str, str]:
        """As :meth:`bounds`, with the newest letter's id as the highest."""
        low, high = self.bounds()
        newest = self._store.newest(1, "+")
        return low, lower_bound(newest[0][0] if newest else "0-0", high)

    def page(self, limit: int, before: str | None) -> Page:
        """Matching letters, newest first; it may end early if ``_READ_PER_PAGE`` candidates were read."""
        low, high = self.bounds()
        if before is not None:
            # An age is an upper bound too; the older one of the two holds.
            high = f"({before}" if lower_bound(before, high) == before else high
        letters: list[DeadLetter] = []
        read = 0
        while True:
            found = self._find(low, high, min(BATCH, limit - len(letters)), oldest_first=False)
            letters += self._read(found.ids)
            read += len(found.ids)
            if not found.cursor:
                return Page(tuple(letters), None)
            if len(letters) >= limit or read >= _READ_PER_PAGE:
                return Page(tuple(letters), found.cursor)
            high = f"({found.cursor}"

    def first(self) -> DeadLetter | None:
        """The newest matching letter."""
        page = self.page(1, None)
        while not page.letters and page.before is not None:
            page = self.page(1, page.before)
        return page.letters[0] if page.letters else None

    def count(self) -> int:
        """Number of matching letters: from the index if it has the answer, otherwise by reading candidates."""
        criteria = self._criteria
        aged = self._fixed is not None or criteria.older_than_s is not None or criteria.newer_than_s is not None
        if aged or criteria.needs_reading or criteria.state == "parked":
            return self._count_ids(criteria.state)
        whole = self._store.size_of(criteria.indexed) if criteria.indexed else self._store.size()
        return whole if criteria.state == "all" else whole - self._count_ids("parked")

    def _count_ids(self, state: str) -> int:
        return sum(len(ids) for ids in self.ids(state=state))

    def ids(self, *, limit: int = BATCH, state: str = "") -> Iterator[list[str]]:
        """Ids of the letters that match now, oldest first, at most ``limit`` at a time."""
        return self.ids_within(*self.bounds_now(), limit=limit, state=state)

    def ids_within(
        self, low: str, high: str, *, limit: int = BATCH, at_most: int | None = None, state: str = ""
    ) -> Iterator[list[str]]:
        """Ids of the letters that match between two bounds, oldest first; ``at_most`` ids in total."""
        left = at_most
        # Ids are cheaper by the thousand. Letters that must be read are read by the batch.
        step = _IDS_PER_STEP if limit == BATCH and not self._criteria.needs_reading else limit
        while low and (left is None or left > 0):
            found = self._find(low, high, step if left is None else min(step, left), oldest_first=True, state=state)
            ids = list(found.ids)
            if self._criteria.needs_reading:
                ids = [letter.id for letter in self._read(found.ids)]
            for at in range(0, len(ids), limit):
                yield ids[at : at + limit]
            left = None if left is None else left - len(ids)
            low = f"({found.cursor}" if found.cursor else ""

    def _find(self, low: str, high: str, limit: int, *, oldest_first: bool, state: str = "") -> Found:
        criteria = self._criteria
        return self._store.find(
            criteria.indexed, state or criteria.state, low, high, limit=limit, oldest_first=oldest_first
        )

    def _read(self, ids: Sequence[str]) -> list[DeadLetter]:
        letters = [read_letter(*row) for row in self._store.rows(ids)]
        if not self._criteria.needs_reading:
            return letters
        return [letter for letter in letters if self._criteria.fits(letter, self._hidden)]
