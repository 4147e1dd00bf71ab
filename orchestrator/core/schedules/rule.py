"""The rule of a schedule: which of its nominal times are fired, coalesced, missed or skipped, and what comes next.

Pure functions of definition, state and time; who calls them applies a decision in one step, if the state is still the
one that was decided about. Conservation: ``due = fired + coalesced + missed + skipped``, where a buffered time and
one whose fire was refused are counted once they are decided.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.nominal_times import ScheduleTimes
from orchestrator.core.schedules.state import Decision, Fate, Fire, Record, ScheduleState, delivery_id_of
from orchestrator.core.schedules.triggers import Interval, Once, Times
from orchestrator.core.schedules.values import Misfire, Overlap

#: After a refused fire it is tried again this much later.
RETRY_MS: Final = 1000

BEYOND_GRACE: Final = "beyond grace"
NOT_MADE_UP: Final = "misfire=skip"
OVERLAP: Final = "overlap"
PAUSED: Final = "paused"
END: Final = "end"
TRIGGERED: Final = "triggered"
BACKFILLED: Final = "backfilled"


def begin(
    definition: ScheduleDefinition, now_ms: int, *, last_ms: int | None = None, times: Times | None = None
) -> ScheduleState:
    """The first state of a schedule.

    ``last_ms`` is when it was last fired elsewhere: what has been due since then is decided as a misfire.
    """
    since_ms = now_ms if last_ms is None else last_ms
    anchor_ms = since_ms
    if definition.start_ms is not None and isinstance(definition.trigger, Interval) and last_ms is None:
        anchor_ms = definition.start_ms
    state = ScheduleState(None, None, anchor_ms)
    if isinstance(definition.trigger, Once) and last_ms is None:
        since_ms = min(since_ms, definition.trigger.at_ms - 1)
    window = ScheduleTimes(definition, state, times)
    return _due_with(window, state, window.following(since_ms))


def _due_with(window: ScheduleTimes, state: ScheduleState, next_ms: int | None) -> ScheduleState:
    """The state that waits for a nominal time; a paused one waits for nothing."""
    due_ms = None if next_ms is None or state.paused else window.due(next_ms)
    return replace(state, next_ms=next_ms, due_ms=due_ms, refused="")


def _advanced(window: ScheduleTimes, state: ScheduleState, last_ms: int) -> ScheduleState:
    """The state after all nominal times up to this one are decided."""
    return replace(_due_with(window, state, window.following(last_ms)), last_ms=last_ms)


def decide(definition: ScheduleDefinition, state: ScheduleState, now_ms: int, times: Times | None = None) -> Decision:
    """Decide about what is due. At most one fire; if more is due, the next state is due at once.

    A decision whose state is the one given changes nothing.
    """
    if state.paused:
        return Decision(state)
    if state.buffered_ms is not None and not state.running:
        return _fire_buffered(definition, state, times)
    first = state.next_ms
    if first is None or state.due_ms is None or state.due_ms > now_ms:
        return Decision(state)
    window = ScheduleTimes(definition, state, times)
    following = window.following(first)
    if following is None or following > now_ms:
        last, count = first, int(window.due(first) <= now_ms)
    else:
        last, count = window.last_due(first, now_ms)
    if not count:
        # The clock was set back, or a jitter was made longer.
        return Decision(_due_with(window, state, first))
    records: list[Record] = []
    grace_ms = definition.grace_ms
    if grace_ms is not None:
        late, late_count = window.last_due(first, now_ms - grace_ms - 1)
        if late_count:
            reason = state.refused or BEYOND_GRACE
            records.append(Record(Fate.MISSED, first, late, late_count, reason))
            count -= late_count
            after_late = window.following(late)
            if not count or after_late is None:
                return Decision(_advanced(window, state, late), None, tuple(records))
            first = after_late
    return _within_grace(definition, state, window, (first, last, count), records)


def _within_grace(
    definition: ScheduleDefinition,
    state: ScheduleState,
    window: ScheduleTimes,
    due: tuple[int, int, int],
    records: list[Record],
) -> Decision:
    """Decide about the nominal times that are due: the first, the last, and how many."""
    first, last, count = due
    misfire = definition.misfire
    is_waiting = bool(state.running) and definition.overlap is not Overlap.ALLOW
    if is_waiting and (definition.overlap is Overlap.SKIP or state.buffered_ms is not None):
        records.append(Record(Fate.SKIPPED, first, last, count, OVERLAP))
        return Decision(_advanced(window, state, last), None, tuple(records))
    if misfire is Misfire.ALL:
        last = chosen = first
        coalesced = 0
    else:
        chosen, coalesced = last, count - 1
        if coalesced:
            before = _before(window, first, last, count)
            if misfire is Misfire.COALESCE:
                records.append(Record(Fate.COALESCED, first, before, coalesced, into_ms=last))
            else:
                records.append(Record(Fate.MISSED, first, before, coalesced, NOT_MADE_UP))
                coalesced = 0
    if is_waiting:
        records.append(Record(Fate.BUFFERED, chosen, chosen, 0))
        after = replace(_advanced(window, state, last), buffered_ms=chosen)
        return Decision(after, None, tuple(records))
    fire = Fire(chosen, delivery_id_of(definition.id, chosen), coalesced)
    records.append(Record(Fate.FIRED, chosen, chosen, 1, delivery_id=fire.delivery_id))
    return Decision(_fired(definition, state, window, fire), fire, tuple(records))


def _before(window: ScheduleTimes, first: int, last: int, count: int) -> int:
    """The nominal time before the last of several."""
    return first if count == 2 else window.last_due(first, last - 1)[0]


def _fired(definition: ScheduleDefinition, state: ScheduleState, window: ScheduleTimes, fire: Fire) -> ScheduleState:
    runs = state.runs + 1
    next_ms = window.following(fire.nominal_ms)
    if definition.max_runs is not None and runs >= definition.max_runs:
        next_ms = None
    return replace(
        state,
        next_ms=next_ms,
        due_ms=None if next_ms is None else window.due(next_ms),
        runs=runs,
        running=_awaited(definition, fire.delivery_id),
        refused="",
        last_ms=fire.nominal_ms,
    )


def _awaited(definition: ScheduleDefinition, delivery_id: str) -> str:
    """The delivery that the schedule waits for, of one that runs: none if several may run."""
    return "" if definition.overlap is Overlap.ALLOW else delivery_id


def _fire_buffered(definition: ScheduleDefinition, state: ScheduleState, times: Times | None) -> Decision:
    nominal_ms = state.buffered_ms
    assert nominal_ms is not None, "who calls this has looked"  # noqa: S101
    fire = Fire(nominal_ms, delivery_id_of(definition.id, nominal_ms))
    runs = state.runs + 1
    after = replace(state, buffered_ms=None, runs=runs, running=_awaited(definition, fire.delivery_id))
    if definition.max_runs is not None and runs >= definition.max_runs:
        after = replace(after, next_ms=None, due_ms=None)
    else:
        after = _due_with(ScheduleTimes(definition, state, times), after, state.next_ms)
    return Decision(after, fire, (Record(Fate.FIRED, nominal_ms, nominal_ms, 1, delivery_id=fire.delivery_id),))


def refused(state: ScheduleState, reason: str, now_ms: int) -> ScheduleState:
    """The state after a fire was refused, as by a full mailbox: the time is tried again, until its grace is over."""
    return replace(state, due_ms=now_ms + RETRY_MS, refused=reason)


def outcome(
    definition: ScheduleDefinition, state: ScheduleState, delivery_id: str, *, is_handled: bool, now_ms: int
) -> Decision:
    """The changes that the outcome of a schedule's delivery makes: it may end a wait, or pause the schedule."""
    after = state
    if delivery_id == state.running:
        after = replace(after, running="")
        if after.buffered_ms is not None:
            after = replace(after, due_ms=now_ms)
    if definition.pause_on_failure and not is_handled and not after.paused:
        return pause(after, f"delivery {delivery_id} was not handled", now_ms)
    return Decision(after)


def pause(state: ScheduleState, reason: str, now_ms: int) -> Decision:
    """Pause a schedule. A nominal time that waited for an outcome is skipped."""
    if state.paused:
        return Decision(state)
    records: tuple[Record, ...] = ()
    if state.buffered_ms is not None:
        records = (Record(Fate.SKIPPED, state.buffered_ms, state.buffered_ms, 1, PAUSED),)
    after = replace(
        state, paused=reason or "no reason given", paused_ms=now_ms, due_ms=None, buffered_ms=None, rev=state.rev + 1
    )
    return Decision(after, None, records)


def resume(
    definition: ScheduleDefinition,
    state: ScheduleState,
    now_ms: int,
    *,
    catch_up: bool = False,
    times: Times | None = None,
) -> Decision:
    """End a pause. What was due meanwhile is skipped, or with ``catch_up`` decided as a misfire."""
    if not state.paused:
        return Decision(state)
    after = replace(state, paused="", paused_ms=0, rev=state.rev + 1)
    window = ScheduleTimes(definition, state, times)
    first = state.next_ms
    if first is None or catch_up:
        return Decision(_due_with(window, after, first))
    last, count = window.last_due(first, now_ms)
    if not count:
        return Decision(_due_with(window, after, first))
    record = Record(Fate.SKIPPED, first, last, count, PAUSED)
    return Decision(_advanced(window, after, last), None, (record,))


def update(
    before: ScheduleDefinition,
    after: ScheduleDefinition,
    state: ScheduleState,
    now_ms: int,
    *,
    times_before: Times | None = None,
    times: Times | None = None,
) -> Decision:
    """The state under a changed definition. New times are computed from the last nominal time and now, not from before.

    A time that is overdue is neither lost nor doubled: if the times change, it is decided by the new policies, and
    several such times are coalesced into the last of them.
    """
    changed = replace(state, rev=state.rev + 1, running=_awaited(after, state.running))
    has_runs = after.max_runs is None or state.runs < after.max_runs
    left: tuple[Record, ...] = ()
    if not has_runs and state.buffered_ms is not None:
        left = (Record(Fate.SKIPPED, state.buffered_ms, state.buffered_ms, 1, END),)
        changed = replace(changed, buffered_ms=None)
    if all(getattr(before, name) == getattr(after, name) for name in ("trigger", "start_ms", "end_ms")):
        next_ms = state.next_ms
        if next_ms is None and has_runs and after.max_runs != before.max_runs:
            # It had ended, and has runs left now.
            changed = replace(changed, floor_ms=max(now_ms, state.floor_ms))
            next_ms = ScheduleTimes(after, changed, times).following(now_ms)
        after_change = _due_with(ScheduleTimes(after, changed, times), changed, next_ms if has_runs else None)
        return Decision(_with_waiting(after_change, now_ms), None, left)
    changed, records = _overdue_at_update(ScheduleTimes(before, state, times_before), changed, now_ms)
    if isinstance(after.trigger, Interval) and before.trigger != after.trigger:
        changed = replace(changed, anchor_ms=now_ms if after.start_ms is None else after.start_ms)
    since_ms = max(now_ms, state.last_ms or 0, state.floor_ms)
    if isinstance(after.trigger, Once):
        since_ms = max(min(since_ms, after.trigger.at_ms - 1), state.last_ms or 0)
    changed = replace(changed, floor_ms=since_ms)
    window = ScheduleTimes(after, changed, times)
    next_ms = changed.next_ms if changed.next_ms is not None else window.following(since_ms)
    after_change = _due_with(window, changed, next_ms if has_runs else None)
    return Decision(_with_waiting(after_change, now_ms), None, left + records)


def _with_waiting(state: ScheduleState, now_ms: int) -> ScheduleState:
    """The state in which a nominal time that waits for no outcome any more is due at once."""
    if state.buffered_ms is None or state.running or state.paused:
        return state
    return replace(state, due_ms=now_ms)


def _overdue_at_update(
    window: ScheduleTimes, state: ScheduleState, now_ms: int
) -> tuple[ScheduleState, tuple[Record, ...]]:
    """Keep the last of the nominal times that have passed, or none if they have passed in a pause."""
    first = state.next_ms
    if first is None or first > now_ms:
        return replace(state, next_ms=None), ()
    last, count = window.last_nominal(first, now_ms)
    if state.paused:
        return replace(state, next_ms=None, last_ms=last), (Record(Fate.SKIPPED, first, last, count, PAUSED),)
    if count == 1:
        return state, ()
    before, _ = window.last_nominal(first, last - 1)
    record = Record(Fate.COALESCED, first, before, count - 1, into_ms=last)
    return replace(state, next_ms=last, last_ms=before), (record,)
