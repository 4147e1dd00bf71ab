"""Fires beside a schedule's plan, and a look at the plan: triggered by hand, backfilled, previewed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.nominal_times import ScheduleTimes
from orchestrator.core.schedules.rule import BACKFILLED, TRIGGERED
from orchestrator.core.schedules.state import Decision, Fate, Fire, Record, ScheduleState, delivery_id_of
from orchestrator.core.schedules.triggers import Times

#: Nominal times that one preview shows, and one backfill fires, at most.
MOST_PREVIEWED: Final = 1000
MOST_BACKFILLED: Final = 10_000


def trigger(definition: ScheduleDefinition, state: ScheduleState, now_ms: int, occasion: str) -> Decision:
    """Fire now, whatever is paused, running or planned. The plan goes on unchanged."""
    fire = Fire(now_ms, delivery_id_of(definition.id, now_ms, f"trigger {occasion}"))
    return Decision(state, fire, (Record(Fate.FIRED, now_ms, now_ms, 1, TRIGGERED, delivery_id=fire.delivery_id),))


def backfill(
    definition: ScheduleDefinition,
    state: ScheduleState,
    span_ms: tuple[int, int],
    occasion: str,
    *,
    most: int = MOST_BACKFILLED,
    times: Times | None = None,
) -> Iterator[Decision]:
    """A fire for each nominal time in a span, both ends included. The plan goes on unchanged.

    Raises:
        InvalidPolicy: there are more than ``most`` of them; none is fired.
    """
    begin_ms, end_ms = span_ms
    if end_ms < begin_ms:
        raise InvalidPolicy("end", end_ms, f"at least begin={begin_ms}")
    window = ScheduleTimes(definition, state, times, is_whole=True)
    count = window.count(begin_ms, end_ms)
    if count > most:
        raise InvalidPolicy("backfill", f"{count} nominal times", f"at most {most} at once")
    return _backfill(definition, state, window, span_ms, occasion)


def _backfill(
    definition: ScheduleDefinition, state: ScheduleState, window: ScheduleTimes, span_ms: tuple[int, int], occasion: str
) -> Iterator[Decision]:
    nominal_ms = window.following(span_ms[0] - 1)
    while nominal_ms is not None and nominal_ms <= span_ms[1]:
        fire = Fire(nominal_ms, delivery_id_of(definition.id, nominal_ms, f"backfill {occasion}"))
        record = Record(Fate.FIRED, nominal_ms, nominal_ms, 1, BACKFILLED, delivery_id=fire.delivery_id)
        yield Decision(state, fire, (record,))
        nominal_ms = window.following(nominal_ms)


def preview(
    definition: ScheduleDefinition, state: ScheduleState, count: int, *, times: Times | None = None
) -> list[tuple[int, int]]:
    """The next nominal times, each with when it is due (the jitter included), as if the schedule were not paused.

    Raises:
        InvalidPolicy: more than 1,000 are asked for.
    """
    if not 1 <= count <= MOST_PREVIEWED:
        raise InvalidPolicy("count", count, f"1 to {MOST_PREVIEWED}")
    window = ScheduleTimes(definition, state, times)
    if definition.max_runs is not None:
        count = min(count, definition.max_runs - state.runs)
    found: list[tuple[int, int]] = []
    nominal_ms = state.next_ms
    while nominal_ms is not None and len(found) < count:
        found.append((nominal_ms, window.due(nominal_ms)))
        nominal_ms = window.following(nominal_ms)
    return found
