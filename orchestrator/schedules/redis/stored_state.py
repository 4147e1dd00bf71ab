"""A schedule's state as Redis has it: a hash with names of one letter (see ``lua/includes/schedule_changes.lua``)."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

from orchestrator.core.schedules.state import Decision, Fate, ScheduleState
from orchestrator.core.schedules.zones import LAST_MS
from orchestrator.core.stored_values import whole_number
from orchestrator.schedules.redis.scripts import Change, Record

#: Field in Redis -> field of the state. ``due_ms`` is the score in the sorted set of what is due.
LETTERS: Final[Mapping[str, str]] = {
    "n": "next_ms",
    "l": "last_ms",
    "a": "anchor_ms",
    "h": "floor_ms",
    "r": "rev",
    "j": "runs",
    "p": "paused",
    "t": "paused_ms",
    "u": "running",
    "q": "buffered_ms",
    "g": "refused",
}

_COUNTED: Final = {Fate.FIRED: "f", Fate.COALESCED: "c", Fate.MISSED: "m", Fate.SKIPPED: "k"}

#: What is counted by reason as well.
_WITH_REASON: Final = ("m", "k")

#: Fields that the scripts set themselves.
_BY_SCRIPTS: Final = frozenset({"r"})

_DEFAULTS: Final = ScheduleState(None, None)

#: The letters of the fields that a decision writes, and the values of these fields.
_WRITTEN: Final = tuple(letter for letter in LETTERS if letter not in _BY_SCRIPTS)
_values_of: Final = attrgetter(*(LETTERS[letter] for letter in _WRITTEN))
_DEFAULT_VALUES: Final = _values_of(_DEFAULTS)

#: Fields that hold whole numbers: times, and how often something was done.
_TIMES: Final = "nqlaht"
_NUMBERS: Final = _TIMES + "rjfcmk"


def _check(stored: Mapping[str, str]) -> None:
    for letter in _NUMBERS:
        text = stored.get(letter)
        if text:
            number = whole_number(text)
            if number is None:
                raise ValueError(f"field {letter}={text[:40]!r} is no whole number")
            if number > LAST_MS and letter in _TIMES:
                raise ValueError(f"field {letter}={text} is a time after the last one, {LAST_MS}")
        elif text is not None:
            raise ValueError(f"field {letter} is empty")


def state_from(stored: Mapping[str, str], due_ms: int | None) -> ScheduleState:
    """The state that these fields describe.

    Raises:
        ValueError: a field holds something else.
    """
    _check(stored)
    get = stored.get
    next_ms, buffered_ms, last_ms = get("n"), get("q"), get("l")
    return ScheduleState(
        int(next_ms) if next_ms else None,
        due_ms,
        int(get("a") or 0),
        int(get("h") or 0),
        int(get("r") or 0),
        int(get("j") or 0),
        get("p") or "",
        int(get("t") or 0),
        get("u") or "",
        int(buffered_ms) if buffered_ms else None,
        get("g") or "",
        int(last_ms) if last_ms else None,
    )


def fields_of(state: ScheduleState, before: ScheduleState = _DEFAULTS) -> dict[str, Any]:
    """The fields of a state that differ from those of another one; '' is to be deleted."""
    return {
        letter: "" if value is None or value == default else value
        for letter, value, value_before, default in zip(
            _WRITTEN, _values_of(state), _values_of(before), _DEFAULT_VALUES, strict=True
        )
        if value != value_before
    }


def counts_of(decision: Decision) -> list[tuple[str, int, str]]:
    """The changes of a decision to the ledger: field, by how much, why."""
    counts = []
    due = 0
    for record in decision.records:
        letter = _COUNTED.get(record.fate)
        if letter is not None and record.count:
            due += record.count
            counts.append((letter, record.count, record.reason if letter in _WITH_REASON else ""))
    if due:
        counts.append(("d", due, ""))
    return counts


def records_of(decision: Decision) -> list[Record]:
    """The entries that a decision adds to the history."""
    return [
        Record(r.fate.value, r.last_ms, r.first_ms, r.count or 1, r.reason, r.delivery_id, r.into_ms)
        for r in decision.records
    ]


def change_of(decision: Decision, before: ScheduleState = _DEFAULTS) -> Change:
    """The changes of a decision in Redis, where the state is ``before``."""
    fields = fields_of(decision.state, before)
    if decision.state.next_ms is None and before.next_ms is not None:
        fields["e"] = "its last time has passed"
    elif decision.state.next_ms is not None and before.next_ms is None:
        fields["e"] = ""
    return Change(fields, counts_of(decision), records_of(decision))
