"""The dead letters that a filter selects, to be read or acted on together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.deadletters.criteria import Criteria, check_limit
from orchestrator.deadletters.export import write_line
from orchestrator.deadletters.groups import Group, groups_of
from orchestrator.deadletters.replay import Canary, RateLimit, Replayed, replay_all
from orchestrator.deadletters.replay_source import SearchSource
from orchestrator.deadletters.search import LetterSearch, Page
from orchestrator.deadletters.store import ReplayedLetter
from orchestrator.telemetry import emit, events

if TYPE_CHECKING:
    from orchestrator.deadletters.log import DeadLetters

#: Called with the number of letters processed since the last call.
Progress = Callable[[int], None]

#: Called with the ids of letters that were changed, a batch at a time.
OnIds = Callable[[Sequence[str]], None]

#: Called with each letter that was replayed.
OnSent = Callable[[ReplayedLetter], None]


class Selection:
    """The result of :meth:`DeadLetters.query`. Ages are evaluated anew by each method.

    Methods that change letters need a filter or ``all=True``, so that a forgotten filter does not select all letters.
    """

    def __init__(self, log: DeadLetters, criteria: Criteria, fixed: tuple[str, str] | None = None) -> None:
        self._log = log
        self._store = log.store
        self.criteria = criteria
        #: The lowest and the highest id, if they were fixed.
        self._fixed = fixed
        self._search = LetterSearch(log.store, criteria, log.hidden, fixed)

    def until_now(self) -> Selection:
        """The same letters without any that is added, or becomes old enough, after this call."""
        return Selection(self._log, self.criteria, self._search.bounds_until_now())

    def only(self, letter_id: str) -> Selection:
        """The letter with this id, if it is one of the selection."""
        return Selection(self._log, self.criteria, (letter_id, letter_id))

    # -- reading

    def page(self, limit: int = 50, *, before: str | None = None) -> Page:
        """Letters, newest first. With ``metadata`` or ``text`` a page may end early: continue with its ``before``.

        Raises:
            UnknownDeadLetter: ``before`` is not a letter's id.
            InvalidPolicy: ``limit`` is not a number of letters.
        """
        check_limit(limit)
        if before is not None:
            self._log.check_id(before)
        return self._search.page(limit, before) if limit else Page((), before)

    def count(self) -> int:
        """Number of letters; constant time for criteria that the index answers, unless an age is given."""
        return self._search.count()

    def groups(self, limit: int = 50) -> list[Group]:
        """The ``limit`` most recent groups of the letters by fingerprint.

        Raises:
            InvalidPolicy: ``limit`` is not a number of groups.
        """
        check_limit(limit)
        return list(islice(groups_of(self._store, self.criteria, self._log.hidden, self._fixed), limit))

    # -- changing

    def replay(
        self,
        *,
        all: bool = False,
        rate_per_s: float | None = None,
        canary: Canary | None = None,
        at_most: int | None = None,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_sent: OnSent | None = None,
    ) -> Replayed:
        """Replay the letters, oldest first. Letters added meanwhile are left, so none is replayed twice.

        Raises:
            InvalidPolicy: ``rate_per_s`` is not above 0, or there is neither a filter nor ``all``.
        """
        self._require_filter("replay", all)
        rate = RateLimit(rate_per_s)
        watched = canary is not None
        audit_id = self._log.record("replay", who, why, filter=self.criteria.described(), canary=watched)
        source = SearchSource(self._store, self.criteria, self._search, audit_id, at_most, watched=watched)
        return replay_all(self._store, source, audit_id, rate, canary, progress, on_sent)

    def park(
        self,
        note: str,
        *,
        all: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_ids: OnIds | None = None,
    ) -> int:
        """Park the letters; returns how many were open.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_filter("park", all)
        audit_id = self._log.record("park", who, why, filter=self.criteria.described(), note=note)
        written = self._log.park_note(note, who)
        count = self._change_each(lambda ids: self._store.park(ids, audit_id, written), progress, on_ids)
        emit(events.PARKED, {"count": count})
        return count

    def unpark(
        self,
        *,
        all: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_ids: OnIds | None = None,
    ) -> int:
        """Open parked letters; returns how many were parked.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_filter("unpark", all)
        audit_id = self._log.record("unpark", who, why, filter=self.criteria.described())
        count = self._change_each(lambda ids: self._store.unpark(ids, audit_id), progress, on_ids)
        emit(events.UNPARKED, {"count": count})
        return count

    def purge(
        self,
        *,
        all: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_ids: OnIds | None = None,
    ) -> int:
        """Remove the letters for good; returns how many.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_filter("purge", all)
        audit_id = self._log.record("purge", who, why, **self._audit_detail())
        count = self._change_each(lambda ids: self._store.remove(ids, audit_id), progress, on_ids)
        emit(events.PURGED, {"count": count})
        return count

    def export(self, *, who: str | None = None, why: str = "") -> Iterator[str]:
        """Each letter as a line of JSON, oldest first. Secrets are included, so that letters can be replayed."""
        audit_id = self._log.record("export", who, why, filter=self.criteria.described())
        for ids in self._search.ids():
            rows = self._store.rows(ids)
            written = 0
            try:
                for row in rows:
                    written += 1
                    yield write_line(row)
            finally:
                # Also when the caller stops reading: these lines were exported.
                if written:
                    self._store.add_done(audit_id, written)

    def _require_filter(self, method: str, every: bool) -> None:
        if every is not False and every is not True:
            raise InvalidPolicy("all", every, "true, false")
        if not every and not self.criteria.selects and not self._is_one:
            raise InvalidPolicy("all", every, f"{method}(all=True), or a filter such as query(agent=...)")

    @property
    def _is_one(self) -> bool:
        return self._fixed is not None and self._fixed[0] == self._fixed[1]

    def _audit_detail(self) -> dict[str, Any]:
        if self._fixed is not None and self._is_one:
            return {"id": self._fixed[0]}
        return {"filter": self.criteria.described()}

    def _change_each(
        self, change: Callable[[list[str]], list[str]], progress: Progress | None, on_ids: OnIds | None
    ) -> int:
        count = 0
        for ids in self._search.ids():
            changed = change(ids)
            count += len(changed)
            if on_ids is not None:
                on_ids(changed)
            if progress is not None:
                progress(len(ids))
        return count
