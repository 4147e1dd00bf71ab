"""A delivery's history: each attempt, when and where it ended, and how.

While a delivery is pending, its failed attempts are in the message itself; when it ends, they are copied to the record
of its outcome. So history needs no key and no round trip of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

from orchestrator.core.deliveries.death import EXITED
from orchestrator.core.deliveries.outcome import Cancelled, Dead, Expired, Handled, Outcome, to_wire
from orchestrator.core.deliveries.supervision import Failure, Supervision
from orchestrator.core.secrets.masked_repr import summary

#: Its field in the record of an outcome.
HISTORY: Final = "history"

#: Characters of an error's text in a history; the dead letter has the whole text.
_LONGEST_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt."""

    #: From 1. An attempt that its worker's death ended counts here, but not against the retry policy.
    number: int
    #: ISO 8601, UTC, by the worker's clock.
    ended_at: str
    #: The worker, as Celery names it; its incarnation, if it died.
    worker: str
    #: ``handled``, ``expired``, ``cancelled``, the error, or that its worker or pool process died and why.
    how: str
    #: Known for the last attempt only.
    runtime_s: float | None = None

    def __repr__(self) -> str:
        return summary(self, ("number", "ended_at", "worker", "how", "runtime_s"))

    def to_wire(self) -> list[Any]:
        """As plain JSON, short."""
        return [self.number, self.ended_at, self.worker, self.how, self.runtime_s]


def now_text() -> str:
    """The time now, as in :attr:`Attempt.ended_at`."""
    now_ms = time.time_ns() // 1_000_000
    return f"{_second_text(now_ms // 1000)}.{now_ms % 1000:03d}+00:00"


@lru_cache(maxsize=4)
def _second_text(second: int) -> str:
    """The text of a second, cached: many attempts end within the same one."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def how(outcome: Outcome) -> str:
    """The value of :attr:`Attempt.how` for the last attempt."""
    match outcome:
        case Handled():
            return "handled"
        case Dead(_, error):
            return error[:_LONGEST_TEXT]
        case Expired():
            return "expired"
        case Cancelled():
            return "cancelled"


def outcome_record(outcome: Outcome, supervision: Supervision | None, last: Attempt) -> dict[str, Any]:
    """The record of an outcome as JSON data: the outcome, and all attempts up to the ``last`` one."""
    failures = supervision.failures if supervision is not None else ()
    return {**to_wire(outcome), HISTORY: [*(_of(failure).to_wire() for failure in failures), last.to_wire()]}


def handled_record(
    result: Any, attempts: int, supervision: Supervision | None, worker: str, runtime_s: float | None
) -> dict[str, Any]:
    """As :func:`outcome_record` of an outcome `Handled` that is recorded now, without the values in between."""
    failures = supervision.failures if supervision is not None else ()
    last = [attempts, now_text(), worker, "handled", runtime_s]
    history = [*(_of(failure).to_wire() for failure in failures), last] if failures else [last]
    return {"outcome": "handled", "result": result, "attempts": attempts, HISTORY: history}


def _of(failure: Failure) -> Attempt:
    return Attempt(failure.attempt, failure.at, failure.by, f"{failure.type}: {failure.message}"[:_LONGEST_TEXT])


def attempts_in(record: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """The attempts in the record of an outcome; none if the record has none."""
    rows, deaths = record.get(HISTORY), record.get("deaths") or ()
    if rows:
        ended = tuple(Attempt(*row) for row in rows if isinstance(row, list) and len(row) == 5)
        return _with_deaths(ended, deaths, ended[-1].number if ended else 1)
    # Recorded by a script, which copies the failures from the message and the deaths from its entry.
    failures = tuple(Failure.from_wire(wire) for wire in record.get("failures") or () if isinstance(wire, Mapping))
    return attempts_so_far(Supervision(failures=failures), deaths)


def attempts_so_far(supervision: Supervision, deaths: Iterable[Any] = ()) -> tuple[Attempt, ...]:
    """The ended attempts of a pending delivery: those that failed, and those that a worker's death ended."""
    failed = tuple(_of(failure) for failure in supervision.failures)
    return _with_deaths(failed, deaths, failed[-1].number + 1 if failed else 1)


def _with_deaths(ended: tuple[Attempt, ...], deaths: Iterable[Any], last: int) -> tuple[Attempt, ...]:
    """All attempts by the time they ended. A death belongs to the attempt that ended next."""
    died = [_ended_by(death, ended, last) for death in deaths if isinstance(death, Mapping)]
    if not died:
        return ended
    # The sort is stable: deaths come before the end of the attempt that was started again after them.
    both = sorted([*((attempt, 1) for attempt in died), *((attempt, 0) for attempt in ended)], key=_number)
    before = accumulate((death for _, death in both), initial=0)
    return tuple(
        replace(attempt, number=attempt.number + deaths) for (attempt, _), deaths in zip(both, before, strict=False)
    )


def _number(attempt_and_death: tuple[Attempt, int]) -> int:
    return attempt_and_death[0].number


def _ended_by(death: Mapping[str, Any], ended: tuple[Attempt, ...], last: int) -> Attempt:
    at_ms = death.get("at")
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC) if isinstance(at_ms, int | float) else None
    except (ValueError, OverflowError, OSError):
        # No time that exists: not written by this library.
        at = None
    ended_at = "" if at is None else at.isoformat(timespec="milliseconds")
    number = next((attempt.number for attempt in ended if attempt.ended_at >= ended_at), last) if ended_at else last
    return Attempt(number, ended_at, str(death.get("by", "")), _how(death))


def _how(death: Mapping[str, Any]) -> str:
    reason = death.get("reason", "")
    if reason == EXITED:
        return "it raised SystemExit (sys.exit)"
    return f"its {'pool process' if death.get('child') else 'worker'} died: {reason}"
