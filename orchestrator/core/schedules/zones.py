"""Time zones as pieces of constant offset, so that instants and local times convert by an addition."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from orchestrator.core.spelling.nearest import nearest

_DAY_S: Final = 86400
#: Between two offsets of a zone lie at least some days; a quarter of one is looked at.
_LOOK_S: Final = 6 * 3600
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: 1 January 1970 as ``date.toordinal`` counts days.
EPOCH_ORDINAL: Final = 719163

#: The last moment that schedules know of: the end of the year 9989.
LAST_MS: Final = 253_086_768_000_000


#: Names in the database that are another zone on each host.
_OF_THE_HOST: Final = ("localtime", "posixrules")


@dataclass(frozen=True, slots=True)
class Change:
    """The clock of a zone is changed: seconds since 1970, and the offset from UTC before and after."""

    at_s: int
    before_s: int
    after_s: int

    @property
    def is_gap(self) -> bool:
        """Whether local times are left out; otherwise they come twice."""
        return self.after_s > self.before_s


class UnknownZone(ValueError):
    """There is no time zone of that name; ``nearest`` is the likeliest one that exists."""

    def __init__(self, name: object) -> None:
        is_similar = isinstance(name, str) and name not in _OF_THE_HOST
        self.nearest = nearest(str(name), available_timezones()) if is_similar else ""
        super().__init__(f"unknown time zone {name!r}")


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, as ``Europe/Berlin``.

    Raises:
        UnknownZone: there is none.
    """
    if name in _OF_THE_HOST:
        raise UnknownZone(name)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        # A directory of the database raises an OSError.
        raise UnknownZone(name) from None


def offset_s(name: str, at_s: int) -> int:
    """The offset from UTC at a moment."""
    offset = (_EPOCH + timedelta(seconds=at_s)).astimezone(zone(name)).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


@lru_cache(maxsize=16384)
def changes(name: str, ordinal: int) -> tuple[Change, ...]:
    """The changes of a zone's clock from a day before to two days after 00:00 UTC of a day.

    That is whatever concerns the local times of that day.
    """
    start_s = (ordinal - EPOCH_ORDINAL - 1) * _DAY_S
    found = _changes_in_year(name, _year_of(ordinal))
    if not found:
        return ()
    end_s = start_s + 3 * _DAY_S
    first = bisect_right(found, start_s - 1, key=lambda change: change.at_s)
    last = bisect_right(found, end_s, key=lambda change: change.at_s)
    return found[first:last]


def _year_of(ordinal: int) -> int:
    return datetime.fromordinal(max(1, ordinal)).year


@lru_cache(maxsize=4096)
def _changes_in_year(name: str, year: int) -> tuple[Change, ...]:
    """The changes of a year, and those in the first days of the next and the last days of the one before."""
    start_s = (datetime(year, 1, 1).toordinal() - EPOCH_ORDINAL - 4) * _DAY_S  # noqa: DTZ001
    found = []
    before = offset_s(name, start_s)
    for at_s in range(start_s + _LOOK_S, start_s + 374 * _DAY_S, _LOOK_S):
        after = offset_s(name, at_s)
        if after != before:
            found.append(Change(_moment_of_change(name, at_s - _LOOK_S, at_s, before), before, after))
            before = after
    return tuple(found)


def _moment_of_change(name: str, low_s: int, high_s: int, before: int) -> int:
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if offset_s(name, middle_s) == before:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


@lru_cache(maxsize=65536)
def offset_of_day(name: str, ordinal: int) -> int | None:
    """The offset of a local day, in seconds; ``None`` if the clock is changed on it or on a day beside it."""
    if changes(name, ordinal):
        return None
    return offset_s(name, (ordinal - EPOCH_ORDINAL) * _DAY_S)


def changes_between(name: str, first_ordinal: int, last_ordinal: int) -> list[Change]:
    """The changes of a zone's clock from one day to another, in UTC."""
    begin_s, end_s = ((ordinal - EPOCH_ORDINAL) * _DAY_S for ordinal in (first_ordinal, last_ordinal))
    found = {
        change.at_s: change
        for year in range(_year_of(first_ordinal), _year_of(last_ordinal) + 1)
        for change in _changes_in_year(name, year)
        if begin_s <= change.at_s < end_s
    }
    return [found[at_s] for at_s in sorted(found)]
