"""Cron expressions of five fields: read, checked and written.

Day of month and day of week must both match, as in Celery. Ranges may wrap around (``fri-mon``), as in Celery.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator.core.schedule_fault import ScheduleFault

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONG_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_LONG_WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")

#: The most days that each month has.
_DAYS_IN: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

#: cron's names for some expressions.
NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)

#: Longer expressions are not read.
_LONGEST: Final = 500

_FORM: Final = (
    "five fields (minute, hour, day of month, month, day of week) with blanks between them, as in '30 2 * * mon-fri'"
)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]

    @property
    def allowed(self) -> str:
        """The values that the field may hold."""
        named = f", {next(iter(self.names))}..." if self.names else ""
        return f"{self.low} to {self.high}{named}, *, ranges (a-b), steps from 1 (*/n, a-b/n) and lists of these (a,b)"


def _named(*lists: tuple[str, ...], first: int) -> dict[str, int]:
    return {name: number for names in lists for number, name in enumerate(names, first)}


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _named(_MONTHS, _LONG_MONTHS, first=1)),
    _Field("day of week", 0, 6, _named(_WEEKDAYS, _LONG_WEEKDAYS, first=0)),
)


@dataclass(frozen=True, slots=True)
class CronFields:
    """The values that each field matches, ascending; Sunday is 0."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    #: Whether minute or hour has a wildcard: such a schedule goes by elapsed time, others by the clock on the wall.
    minute_wildcard: bool = False
    hour_wildcard: bool = False

    @property
    def by_elapsed_time(self) -> bool:
        """Whether the times are to be evenly spaced also where the clock is changed."""
        return self.minute_wildcard or self.hour_wildcard

    @property
    def narrows_day_and_weekday(self) -> bool:
        """Whether day of month and day of week are both given, which Vixie's cron reads as *or*."""
        return len(self.days) < 31 and len(self.weekdays) < 7

    def __str__(self) -> str:
        wild = (self.minute_wildcard, self.hour_wildcard, True, True, True)
        values = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(_written(field, each, star) for field, each, star in zip(_FIELDS, values, wild, strict=True))


class _Refused(Exception):
    """A part of a field is not allowed; ``nearest`` is a part that is."""

    def __init__(self, nearest: str) -> None:
        self.nearest = nearest


def _written(field: _Field, values: tuple[int, ...], star: bool) -> str:
    parts = []
    left = values
    if star and values[0] == field.low:
        # Where a field has a wildcard, the values of one of its steps are among its own.
        step = next(n for n in range(1, 61) if set(range(field.low, field.high + 1, n)) <= set(values))
        by_step = range(field.low, field.high + 1, step)
        # `*/60` says no more than 0, but that there was a wildcard, which matters in minute and hour.
        if len(by_step) > 2 or (field.low == 0 and field.high > 6):
            parts.append("*" if step == 1 else f"*/{step}")
            left = tuple(value for value in values if value not in by_step)
    while left:
        end = 1
        while end < len(left) and left[end] == left[0] + end:
            end += 1
        if end > 2:
            parts.append(f"{left[0]}-{left[end - 1]}")
        else:
            parts.extend(str(value) for value in left[:end])
        left = left[end:]
    return ",".join(parts)


@lru_cache(maxsize=4096)
def read_cron(expression: str) -> tuple[CronFields | None, tuple[ScheduleFault, ...]]:
    """The fields of a cron expression, or what is wrong with it, with the nearest expression that is valid."""
    texts, fault = _split(expression)
    if fault is not None:
        return None, (fault,)
    values: list[tuple[int, ...]] = []
    nearest, refused = list(texts), []
    for place, (field, text) in enumerate(zip(_FIELDS, texts, strict=True)):
        try:
            values.append(_values(field, text))
        except _Refused as problem:
            nearest[place] = problem.nearest
            refused.append(field)
    if refused:
        like = _valid(" ".join(nearest)) if nearest != texts else ""
        return None, tuple(
            ScheduleFault("cron", expression, f"as {field.name} {field.allowed}", like) for field in refused
        )
    minutes, hours, days, months, weekdays = values
    longest = max(_DAYS_IN[month - 1] for month in months)
    if days[0] > longest:
        # February has its 29th every fourth year only.
        last = 28 if longest == 29 else longest
        nearest[2] = str(last)
        return None, (
            ScheduleFault("cron", expression, f"a day that these months have (1 to {longest})", " ".join(nearest)),
        )
    return CronFields(minutes, hours, days, months, weekdays, "*" in texts[0], "*" in texts[1]), ()


def _split(expression: str) -> tuple[list[str], ScheduleFault | None]:
    """The texts of the five fields."""
    if not isinstance(expression, str) or len(expression) > _LONGEST or not expression.isascii():
        return [], ScheduleFault("cron", expression, f"ASCII text of at most {_LONGEST} characters: {_FORM}")
    texts = expression.lower().split()
    if len(texts) == len(_FIELDS):
        return texts, None
    if len(texts) == 1 and (nickname := f"@{texts[0].lstrip('@')}") in NICKNAMES:
        like = NICKNAMES[nickname]
    elif len(texts) == len(_FIELDS) + 1:
        # Most likely seconds first, as Quartz has them.
        like = _valid(" ".join(texts[1:]))
    else:
        # Too few fields are the first ones only if each can be one; words are not.
        padded = " ".join([*texts, *["*"] * (len(_FIELDS) - len(texts))])
        like = padded if 0 < len(texts) < len(_FIELDS) and read_cron(padded)[0] is not None else ""
    return [], ScheduleFault("cron", expression, f"{_FORM}; it has {len(texts)}", like)


def _valid(expression: str) -> str:
    """An expression of five fields, or the nearest one that is valid."""
    fields, faults = read_cron(expression)
    return expression if fields is not None else faults[0].nearest


def _values(field: _Field, text: str) -> tuple[int, ...]:
    found: set[int] = set()
    nearest, is_refused = [], False
    for part in text.split(","):
        try:
            found.update(_part(field, part))
            nearest.append(part)
        except _Refused as problem:
            is_refused = True
            nearest.append(problem.nearest)
    if is_refused:
        raise _Refused(",".join(filter(None, nearest)) or "*")
    return tuple(sorted(found))


def _part(field: _Field, part: str) -> list[int]:
    """The values of ``*``, ``*/n``, ``a``, ``a-b`` or ``a-b/n``."""
    base, slash, step_text = part.partition("/")
    if slash and (not _NUMBER.fullmatch(step_text) or int(step_text) == 0):
        raise _Refused(base if base == "*" or "-" in base else "*")
    step = int(step_text) if slash else 1
    if base == "*":
        return list(range(field.low, field.high + 1))[::step]
    first, dash, last = base.partition("-")
    if not dash:
        value = _number(field, first)
        if slash:
            # Cron's dialects do not agree on what `5/15` means.
            raise _Refused(f"{value}-{field.high}/{step}")
        return [value]
    try:
        low, high = _number(field, first), _number(field, last, is_end=True)
    except _Refused:
        low, high = (_nearest_number(field, text) for text in (first, last))
        raise _Refused(f"{low}-{high}{slash}{step_text}" if low <= high else "*") from None
    values = [*range(low, high + 1)] or [*range(low, field.high + 1), *range(field.low, high + 1)]
    return [value % 7 if field.high == 6 else value for value in values[::step]]


def _number(field: _Field, text: str, *, is_end: bool = False) -> int:
    if (named := field.names.get(text)) is not None:
        return named
    if _NUMBER.fullmatch(text) and field.low <= int(text) <= field.high:
        return int(text)
    if field.high == 6 and text == "7":
        # Sunday, as in Vixie's cron; at the end of a range it follows Saturday.
        return 7 if is_end else 0
    raise _Refused(str(_nearest_number(field, text)))


def _nearest_number(field: _Field, text: str) -> int:
    if (named := field.names.get(text)) is not None:
        return named
    if _NUMBER.fullmatch(text):
        return min(max(int(text), field.low), field.high)
    for name, number in field.names.items():
        if text[:3] == name[:3]:
            return number
    return field.low
