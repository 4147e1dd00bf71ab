"""Some of the dead letters: those that a filter means, to be looked at or dealt with together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.deadletters.criteria import Criteria, check_limit
from orchestrator.deadletters.export import write_line
from orchestrator.deadletters.letter import DeadLetter, read_letter
from orchestrator.deadletters.replay import Canary, Pace, Replayed, Source, replay
from orchestrator.deadletters.store import BATCH, Found, ReplayedLetter, ReplayResult
from orchestrator.telemetry import emit, events

if TYPE_CHECKING:
    from orchestrator.deadletters.log import DeadLetters

#: Letters that one page reads at most, where a filter needs them to be read.
_READ = 20_000

#: Ids that one step of a search brings, where they are dealt with in batches.
_AHEAD = 1000

_HOUR_MS = 3_600_000

Progress = Callable[[int], None]

#: Is given the letters that were acted on, a batch at a time.
OnIds = Callable[[Sequence[str]], None]

#: Is given each letter that was sent again.
OnSent = Callable[[ReplayedLetter], None]


@dataclass(frozen=True, slots=True)
class Page:
    """Some letters, newest first."""

    letters: tuple[DeadLetter, ...]
    #: ``before`` of the next page; ``None`` at the end. Letters that come or go meanwhile do not shift pages.
    before: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that died of the same: one fingerprint."""

    fingerprint: str
    count: int
    #: Burial of the oldest and the newest that are there, in ms since 1970.
    first_ms: int
    last_ms: int
    #: Arrivals in each of the last 24 hours, oldest first, whatever became of the letters.
    arrivals: tuple[int, ...]
    #: The newest of them.
    example: DeadLetter

    @property
    def sparkline(self) -> str:
        """The arrivals, drawn."""
        most = max(self.arrivals) or 1
        return "".join("▁▂▃▄▅▆▇█"[round(count / most * 7)] if count else " " for count in self.arrivals)


class Selection:
    """What :meth:`DeadLetters.query` returns. Ages are of the moment at which it is asked something.

    Whatever acts on letters needs a filter, or an explicit ``all=True``: a forgotten filter must not reach all.
    """

    def __init__(self, log: DeadLetters, criteria: Criteria, fixed: tuple[str, str] | None = None) -> None:
        self._log = log
        self._store = log.store
        self.criteria = criteria
        #: Between which ids they lie, if that was fixed.
        self._fixed = fixed

    def until_now(self) -> Selection:
        """Those of them that are there now: none that comes later, or grows old enough later, is among them."""
        low, high = self._bounds()
        newest = self._store.newest(1, "+")
        last = newest[0][0] if newest else "0-0"
        return Selection(self._log, self.criteria, (low, _lower(last, high)))

    def only(self, letter_id: str) -> Selection:
        """The one of them with that id."""
        return Selection(self._log, self.criteria, (letter_id, letter_id))

    # -- asking

    def page(self, limit: int = 50, *, before: str | None = None) -> Page:
        """Newest first. Where metadata or text has to be read for it, a page may end early: go on with its ``before``.

        Raises:
            UnknownDeadLetter: ``before`` is no letter's id.
            InvalidPolicy: ``limit`` is no number of letters.
        """
        check_limit(limit)
        if before is not None:
            self._log._known_form(before)
        if not limit:
            return Page((), before)
        low, high = self._bounds()
        if before is not None:
            # An age is a bound too; whichever is the older one holds.
            high = f"({before}" if _lower(before, high) == before else high
        letters: list[DeadLetter] = []
        read = 0
        while True:
            found = self._find(low, high, min(BATCH, limit - len(letters)), oldest_first=False)
            letters += self._read(found.ids)
            read += len(found.ids)
            if not found.cursor:
                return Page(tuple(letters), None)
            if len(letters) >= limit or read >= _READ:
                return Page(tuple(letters), found.cursor)
            high = f"({found.cursor}"

    def count(self) -> int:
        """How many there are. At once where an index answers and no age is asked; else by looking at candidates."""
        c = self.criteria
        aged = self._fixed is not None or c.older_than_s is not None or c.newer_than_s is not None
        if aged or c.needs_reading or c.state == "parked":
            return self._counted(c.state)
        whole = self._store.size_of(c.indexed) if c.indexed else self._store.size()
        return whole if c.state == "all" else whole - self._counted("parked")

    def _counted(self, state: str) -> int:
        return sum(len(ids) for ids in self._ids(state=state))

    def groups(self, limit: int = 50) -> list[Group]:
        """The letters by fingerprint, the last to have come first; of those there are, the ``limit`` newest.

        Raises:
            InvalidPolicy: ``limit`` is no number of groups.
        """
        check_limit(limit)
        c = self.criteria
        names = self._store.values("group", c.indexed)
        hour = self._store.now_ms() // _HOUR_MS
        groups: list[Group] = []
        # Whether a group has letters of that age or state, only the letters tell.
        while len(groups) < limit and (name := next(names, "")):
            part = self._log.query(**{**c.described(), "group": name})
            part._fixed = self._fixed
            page = part.page(1)
            while not page.letters and page.before is not None:
                page = part.page(1, before=page.before)
            newest = page.letters
            if not newest:
                continue
            oldest = next((ids[0] for ids in part._ids(limit=1) if ids), newest[0].id)
            arrivals = self._store.arrivals(name)
            groups.append(
                Group(
                    fingerprint=name,
                    count=part.count(),
                    first_ms=int(oldest.split("-")[0]),
                    last_ms=newest[0].buried_ms,
                    arrivals=tuple(arrivals.get(hour - ago, 0) for ago in range(23, -1, -1)),
                    example=newest[0],
                )
            )
        return groups

    # -- acting

    def _require_meant(self, act: str, every: bool) -> None:
        """Refuse to act on every letter unless the caller asked for that."""
        if every is not False and every is not True:
            raise InvalidPolicy("all", every, "true, false")
        if not every and not self.criteria.selects and not self._is_one:
            raise InvalidPolicy("all", every, f"{act}(all=True), or a filter such as query(agent=...)")

    @property
    def _is_one(self) -> bool:
        return self._fixed is not None and self._fixed[0] == self._fixed[1]

    def retry(
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
        """Send them again, oldest first; those that come meanwhile are left, so none is sent twice.

        Raises:
            InvalidPolicy: ``rate_per_s`` is not above 0, or there is neither a filter nor ``all``.
        """
        self._require_meant("retry", all)
        pace = Pace(rate_per_s)
        act = self._log.begin("retry", who, why, filter=self.criteria.described(), canary=canary is not None)
        send = self._sender(act, at_most, watched=canary is not None)
        return replay(self._store, send, act, pace, canary, progress, on_sent)

    def _sender(self, act: str, at_most: int | None, *, watched: bool) -> Source:
        """Sends what an index finds in the step that finds it, and what has to be looked for by its id."""
        c = self.criteria
        low, high = self._bounds_now()
        left = at_most
        named: Source | None = None

        def send(most: int) -> ReplayResult | None:
            nonlocal low, left, named
            if named is not None:
                return named(most)
            if not low or left == 0:
                return None
            limit = most if left is None else min(most, left)
            replayed = (
                None
                if c.needs_reading
                else self._store.resend_found(c.indexed, c.state, low, high, act, limit=limit, watched=watched)
            )
            if replayed is None:
                named = self._sender_by_id(self._ids_within(low, high, at_most=left), act, watched=watched)
                return named(most)
            low = replayed.low
            left = None if left is None else left - replayed.came_to
            return replayed if replayed.came_to else None

        return send

    def _sender_by_id(self, batches: Iterator[list[str]], act: str, *, watched: bool) -> Source:
        waiting: list[str] = []

        def send(most: int) -> ReplayResult | None:
            while len(waiting) < most and (ids := next(batches, None)) is not None:
                waiting.extend(ids)
            ids = waiting[:most]
            del waiting[:most]
            return self._store.replay(ids, act, auto=False, watched=watched) if ids else None

        return send

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
        """Put them aside; returns how many were open.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_meant("park", all)
        act = self._log.begin("park", who, why, filter=self.criteria.described(), note=note)
        kept = self._log.note(note, who)
        done = self._each(lambda ids: self._store.park(ids, act, kept), progress, on_ids)
        emit(events.PARKED, {"count": done})
        return done

    def unpark(
        self,
        *,
        all: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_ids: OnIds | None = None,
    ) -> int:
        """Make them open again; returns how many were parked.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_meant("unpark", all)
        act = self._log.begin("unpark", who, why, filter=self.criteria.described())
        done = self._each(lambda ids: self._store.unpark(ids, act), progress, on_ids)
        emit(events.UNPARKED, {"count": done})
        return done

    def purge(
        self,
        *,
        all: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Progress | None = None,
        on_ids: OnIds | None = None,
    ) -> int:
        """Remove them for good; returns how many.

        Raises:
            InvalidPolicy: there is neither a filter nor ``all``.
        """
        self._require_meant("purge", all)
        act = self._log.begin("purge", who, why, **self._about())
        done = self._each(lambda ids: self._store.remove(ids, act), progress, on_ids)
        emit(events.PURGED, {"count": done})
        return done

    def export(self, *, who: str | None = None, why: str = "") -> Iterator[str]:
        """Each letter as a line of JSON, oldest first, with its secrets: it must be possible to send it again."""
        act = self._log.begin("export", who, why, filter=self.criteria.described())
        for ids in self._ids():
            rows = self._store.rows(ids)
            written = 0
            try:
                for row in rows:
                    written += 1
                    yield write_line(row)
            finally:
                # Whoever stops reading was given these.
                if written:
                    self._store.progress(act, "done", written)

    def _about(self) -> dict[str, Any]:
        """Which letters are meant, for the record of an act."""
        if self._fixed is not None and self._is_one:
            return {"id": self._fixed[0]}
        return {"filter": self.criteria.described()}

    def _each(self, act: Callable[[list[str]], list[str]], progress: Progress | None, on_ids: OnIds | None) -> int:
        done = 0
        for ids in self._ids():
            reached = act(ids)
            done += len(reached)
            if on_ids is not None:
                on_ids(reached)
            if progress is not None:
                progress(len(ids))
        return done

    # -- searching

    def _bounds(self) -> tuple[str, str]:
        if self._fixed is not None:
            return self._fixed
        c = self.criteria
        if c.older_than_s is None and c.newer_than_s is None:
            return "-", "+"
        now = self._store.now_ms()
        low = "-" if c.newer_than_s is None else str(max(0, now - round(c.newer_than_s * 1000)))
        high = "+" if c.older_than_s is None else str(max(0, now - round(c.older_than_s * 1000)))
        return low, high

    def _bounds_now(self) -> tuple[str, str]:
        """The bounds of those that are there now; the lower one is empty if there are none."""
        low, high = self._bounds()
        if high != "+":
            return low, high
        newest = self._store.newest(1, "+")
        return (low, newest[0][0]) if newest else ("", "")

    def _find(self, low: str, high: str, limit: int, *, oldest_first: bool, state: str = "") -> Found:
        c = self.criteria
        return self._store.find(c.indexed, state or c.state, low, high, limit=limit, oldest_first=oldest_first)

    def _read(self, ids: tuple[str, ...]) -> list[DeadLetter]:
        letters = [read_letter(*row) for row in self._store.rows(ids)]
        if not self.criteria.needs_reading:
            return letters
        return [letter for letter in letters if self.criteria.fits(letter, self._log.hidden)]

    def _ids(self, *, limit: int = BATCH, state: str = "") -> Iterator[list[str]]:
        """Ids of those that are there now, oldest first, some at a time."""
        return self._ids_within(*self._bounds_now(), limit=limit, state=state)

    def _ids_within(
        self, low: str, high: str, *, limit: int = BATCH, at_most: int | None = None, state: str = ""
    ) -> Iterator[list[str]]:
        left = at_most
        # Ids come cheaper by the thousand. Letters that have to be read come by the batch.
        ahead = _AHEAD if limit == BATCH and not self.criteria.needs_reading else limit
        while low and (left is None or left > 0):
            found = self._find(low, high, ahead if left is None else min(ahead, left), oldest_first=True, state=state)
            ids = list(found.ids)
            if self.criteria.needs_reading:
                ids = [letter.id for letter in self._read(found.ids)]
            for at in range(0, len(ids), limit):
                yield ids[at : at + limit]
            left = None if left is None else left - len(ids)
            low = f"({found.cursor}" if found.cursor else ""


def _lower(letter_id: str, high: str) -> str:
    """The lower one of an id and an upper bound, which is an id, or ``+``, or the ms up to whose end it reaches."""
    if high == "+":
        return letter_id
    ms, _, number = high.partition("-")
    place = tuple(int(part) for part in letter_id.split("-"))
    return letter_id if place <= (int(ms), int(number) if number else float("inf")) else high
