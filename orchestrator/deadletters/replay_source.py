"""The sources of the letters of a bulk replay: a search, or a list of ids."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.deadletters.criteria import Criteria
from orchestrator.deadletters.search import LetterSearch
from orchestrator.deadletters.store import LetterReplayer, ReplayResult


class SearchSource:
    """Replays what an index finds in the step that finds it, and anything else by its id."""

    def __init__(
        self,
        store: LetterReplayer,
        criteria: Criteria,
        search: LetterSearch,
        audit_id: str,
        at_most: int | None,
        *,
        watched: bool,
    ) -> None:
        self._store = store
        self._criteria = criteria
        self._search = search
        self._audit_id = audit_id
        self._left = at_most
        self._watched = watched
        self._low, self._high = search.bounds_now()
        self._by_id: IdSource | None = None

    def __call__(self, most: int) -> ReplayResult | None:
        """Replay the next letters, at most ``most``; ``None`` if no letter is left."""
        if self._by_id is not None:
            return self._by_id(most)
        if not self._low or self._left == 0:
            return None
        result = self._replay_found(most if self._left is None else min(most, self._left))
        if result is None:
            ids = self._search.ids_within(self._low, self._high, at_most=self._left)
            self._by_id = IdSource(self._store, ids, self._audit_id, watched=self._watched)
            return self._by_id(most)
        self._low = result.next_low
        self._left = None if self._left is None else self._left - result.processed
        return result if result.processed else None

    def _replay_found(self, limit: int) -> ReplayResult | None:
        criteria = self._criteria
        if criteria.needs_reading:
            return None
        return self._store.replay_found(
            criteria.indexed, criteria.state, self._low, self._high, self._audit_id, limit=limit, watched=self._watched
        )


class IdSource:
    """Replays the letters of these ids."""

    def __init__(self, store: LetterReplayer, batches: Iterator[list[str]], audit_id: str, *, watched: bool) -> None:
        self._store = store
        self._batches = batches
        self._audit_id = audit_id
        self._watched = watched
        self._waiting: list[str] = []

    def __call__(self, most: int) -> ReplayResult | None:
        """Replay the next letters, at most ``most``; ``None`` if no letter is left."""
        while len(self._waiting) < most and (ids := next(self._batches, None)) is not None:
            self._waiting.extend(ids)
        ids, self._waiting = self._waiting[:most], self._waiting[most:]
        if not ids:
            return None
        return self._store.replay(ids, self._audit_id, auto=False, watched=self._watched)
