"""Triggers: the nominal times of a schedule, in ms since 1970 in UTC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from orchestrator.core.checks.numbers import is_whole_number
from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.cron_fields import read_cron
from orchestrator.core.schedules.cron_times import CronTimes, DstFold, DstGap
from orchestrator.core.schedules.zones import LAST_MS, UnknownZone, zone

#: The shortest and the longest interval: 0.1 s and ten years.
SHORTEST_MS: Final = 100
LONGEST_MS: Final = 3650 * 86400 * 1000

#: Nominal times of a foreign trigger that are looked at in one go.
_MOST_FOREIGN: Final = 1000


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone.

    ``dst_gap`` and ``dst_fold`` say what happens to times that the clock skips or shows twice. Unless given, a fixed
    time comes once per local day, and an expression with a wildcard in minute or hour follows the elapsed time.

    Raises:
        InvalidSchedule: the expression or the zone is not valid.
    """

    expression: str
    tz: str = "UTC"
    dst_gap: DstGap | None = None
    dst_fold: DstFold | None = None

    def __post_init__(self) -> None:
        if faults := cron_faults(self.expression, self.tz, self.dst_gap, self.dst_fold):
            raise InvalidSchedule("", faults)
        object.__setattr__(self, "expression", " ".join(self.expression.split()))
        object.__setattr__(self, "dst_gap", None if self.dst_gap is None else DstGap(self.dst_gap))
        object.__setattr__(self, "dst_fold", None if self.dst_fold is None else DstFold(self.dst_fold))


@dataclass(frozen=True, slots=True)
class Interval:
    """A fixed rate, counted from the schedule's anchor, which is in its state.

    Raises:
        InvalidSchedule: the interval is not allowed.
    """

    every_ms: int

    def __post_init__(self) -> None:
        if not is_whole_number(self.every_ms, SHORTEST_MS, LONGEST_MS):
            raise InvalidSchedule("", [ScheduleFault("every_ms", self.every_ms, f"{SHORTEST_MS} to {LONGEST_MS}")])


@dataclass(frozen=True, slots=True)
class Once:
    """One moment.

    Raises:
        InvalidSchedule: it is no whole number of ms since 1970.
    """

    at_ms: int

    def __post_init__(self) -> None:
        if not is_whole_number(self.at_ms, 0, LAST_MS):
            raise InvalidSchedule("", [ScheduleFault("at_ms", self.at_ms, f"ms since 1970, 0 to {LAST_MS}")])


@dataclass(frozen=True, slots=True)
class Foreign:
    """Times that a schedule object of Celery computes.

    ``solar`` is rebuilt from its arguments wherever ephem is installed; an app's own class only runs in processes that
    declare the schedule.
    """

    #: ``solar``, or the name of a class.
    kind: str
    #: What the object looks like, for people.
    text: str = ""
    #: JSON data from which the object is rebuilt; none if only its declaration has it.
    arguments: tuple[Any, ...] = ()


Trigger = Cron | Interval | Once | Foreign


class Times(Protocol):
    """Nominal times; all in ms since 1970."""

    def next_after(self, after_ms: int, /) -> int | None: ...

    def latest(self, at_ms: int, from_ms: int = 0, /) -> int | None: ...

    def count(self, low_ms: int, high_ms: int, /) -> int: ...


class _IntervalTimes:
    __slots__ = ("_anchor_ms", "_every_ms")

    def __init__(self, every_ms: int, anchor_ms: int) -> None:
        self._every_ms, self._anchor_ms = every_ms, anchor_ms

    def next_after(self, after_ms: int) -> int | None:
        if after_ms < self._anchor_ms:
            return self._anchor_ms
        found = after_ms + self._every_ms - (after_ms - self._anchor_ms) % self._every_ms
        return found if found <= LAST_MS else None

    def latest(self, at_ms: int, _from_ms: int = 0) -> int | None:
        return None if at_ms < self._anchor_ms else at_ms - (at_ms - self._anchor_ms) % self._every_ms

    def count(self, low_ms: int, high_ms: int) -> int:
        before = max(low_ms, self._anchor_ms) - 1 - self._anchor_ms
        return max(0, (high_ms - self._anchor_ms) // self._every_ms - before // self._every_ms)


class _OnceTimes:
    __slots__ = ("_at_ms",)

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def next_after(self, after_ms: int) -> int | None:
        return self._at_ms if after_ms < self._at_ms else None

    def latest(self, at_ms: int, _from_ms: int = 0) -> int | None:
        return self._at_ms if self._at_ms <= at_ms else None

    def count(self, low_ms: int, high_ms: int) -> int:
        return int(low_ms <= self._at_ms <= high_ms)


class SteppedTimes:
    """Times of which only the next one can be asked for, as those of Celery's schedule objects.

    Of those that have passed, at most 1,000 are looked at, none of them before ``from_ms``.
    """

    def __init__(self, next_after: Callable[[int], int | None], from_ms: int = 0) -> None:
        self._next_after, self._from_ms = next_after, from_ms

    def next_after(self, after_ms: int) -> int | None:
        """The first one after this moment."""
        found = self._next_after(after_ms)
        # A class that says "now" again and again would never let its schedule advance.
        return None if found is None or found > LAST_MS else max(found, after_ms + SHORTEST_MS)

    def latest(self, at_ms: int, from_ms: int = 0) -> int | None:
        """The last one that is not after this moment, of those after ``from_ms``."""
        found, at = None, max(from_ms, self._from_ms - 1)
        for _ in range(_MOST_FOREIGN):
            following = self.next_after(at)
            if following is None or following > at_ms:
                break
            found = at = following
        return found

    def count(self, low_ms: int, high_ms: int) -> int:
        """The number of times, both moments included."""
        count, at = 0, low_ms - 1
        for _ in range(_MOST_FOREIGN):
            following = self.next_after(at)
            if following is None or following > high_ms:
                break
            count, at = count + 1, following
        return count


@lru_cache(maxsize=8192)
def _cron_times(cron: Cron) -> CronTimes:
    fields, _ = read_cron(cron.expression)
    assert fields is not None, "checked when the trigger was made"  # noqa: S101
    elapsed = fields.by_elapsed_time
    gap = cron.dst_gap or (DstGap.SKIP if elapsed else DstGap.SHIFT)
    fold = cron.dst_fold or (DstFold.BOTH if elapsed else DstFold.FIRST)
    return CronTimes(fields, cron.tz, gap, fold)


def times_of(trigger: Cron | Interval | Once, anchor_ms: int = 0) -> Times:
    """The nominal times of a trigger that is no foreign one."""
    match trigger:
        case Cron():
            return _cron_times(trigger)
        case Interval(every_ms):
            return _IntervalTimes(every_ms, anchor_ms)
        case Once(at_ms):
            return _OnceTimes(at_ms)


def next_after(trigger: Cron | Interval | Once, after_ms: int, anchor_ms: int = 0) -> int | None:
    """The first nominal time after a moment; ``None`` if there is none."""
    return times_of(trigger, anchor_ms).next_after(after_ms)


def cron_faults(expression: object, tz: object, dst_gap: object = None, dst_fold: object = None) -> list[ScheduleFault]:
    """All that is wrong with the parts of a :class:`Cron`."""
    faults: list[ScheduleFault] = []
    if isinstance(expression, str):
        faults.extend(read_cron(expression)[1])
    else:
        faults.append(ScheduleFault("cron", expression, "a text with five fields, as '30 2 * * mon-fri'"))
    faults.extend(zone_faults(tz))
    for name, value, choices in (("dst_gap", dst_gap, DstGap), ("dst_fold", dst_fold, DstFold)):
        if value is not None and value not in list(choices):
            faults.append(ScheduleFault(name, value, ", ".join(choices)))
    return faults


def zone_faults(tz: object) -> list[ScheduleFault]:
    """The fault of the name of a time zone."""
    try:
        zone(tz)
    except UnknownZone as error:
        return [ScheduleFault("tz", tz, "an IANA time zone, as 'Europe/Berlin'", error.nearest)]
    return []
