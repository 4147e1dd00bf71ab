"""Maps: the items of a map are sent, at most its limit at a time, and end it; part of :mod:`.run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.core.workflows.plan import Kind
from orchestrator.core.workflows.result_path import ResultPaths
from orchestrator.core.workflows.run_state import STOPPED, RunState, dead_outcome, handled_outcome

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run


def begin_map(run: Run, step: str) -> None:
    """A map begins: its items are sent next; it is dead if what it goes over is no list."""
    options = run.plan[step].options
    try:
        items = item_count(run, options)
    except (LookupError, TypeError):
        missing = f"InvalidStepInput: a result has no such part: {options['says']}"
        run._end_unsent(step, dead_outcome("validation", missing))
        return
    if items is None:
        run._end_unsent(step, dead_outcome("validation", f"map over what is no list: {options['says']}"))
        return
    run.maps[step] = [0, 0, items, 0]
    if items == 0:
        run._end_unsent(step, handled_outcome())
        return
    run.states[step] = "m"
    run._plan_work("x", step)


def item_count(run: Run, options: Mapping[str, Any]) -> int | None:
    """The number of items of a map: of a list in a step's result, or of another map; ``None`` if there is no list.

    Raises:
        LookupError, TypeError: there is no such part.
    """
    over = str(options["over"])
    kind = "map" if run.plan[over].kind is Kind.MAP else "step"
    paths = ResultPaths(run.outcomes.get, lambda number: run.maps[number][2] if number in run.maps else None)
    return paths.length({kind: over, "path": options["path"]})


def send_items(run: Run, step: str) -> int | None:
    """Send items of a map, as many as its limit and the budget allow; returns where to go on if it has done enough."""
    ended, unhandled, items, sent = run.maps[step]
    if sent >= items or run.states[step][0] != "m":
        return None
    if run.state in STOPPED or (run.state is RunState.RUNNING and run.paused):
        run.ready.append(step)
    elif run.state is RunState.RUNNING:
        limit = run.plan[step].options.get("limit") or items
        while sent < items and sent - ended < limit and int(run.states[step][1:] or 0) < items:
            if run._left <= 0:
                return 0
            one = next_item(run, step, sent)
            if one is None:
                run._left -= 1
                continue
            run._send(one)
            sent += 1
            run.maps[step] = [ended, unhandled, items, sent]
    return None


def next_item(run: Run, step: str, sent: int) -> str | None:
    """The item of a map that is sent next; of one that is retried the next place, or ``None`` if it was handled."""
    place = run.states[step][1:]
    if not place:
        return f"{step}.{sent}"
    run.states[step] = f"m{int(place) + 1}"
    one = f"{step}.{place}"
    was = run.states.get(one, "")[:1]
    if was not in ("d", "e", "c"):
        return None
    run._forget_outcome(one, was)
    return one


def is_unsent(run: Run, item: str) -> bool:
    """Whether an item that was not handled is still to be sent again, because its map is retried."""
    number, _, place = item.partition(".")
    state = run.states.get(number, "")
    return bool(place) and state[:1] == "m" and state != "m" and int(place) >= int(state[1:])


def item_ended(run: Run, step: str, handled: bool, *, again: bool = False) -> None:
    """An item of a map has ended; with ``again`` it is handled after a replay."""
    ended, unhandled, items, sent = run.maps[step]
    if again and unhandled:
        unhandled -= 1
    else:
        ended, unhandled = ended + 1, unhandled + (not handled)
    run.maps[step] = [ended, unhandled, items, sent]
    if run.state is RunState.CANCELLED and not again and (unhandled or sent < items):
        if ended == sent:
            run._cancelled(step)
    elif ended == items and (not again or unhandled == 0):
        why = f"{unhandled} of {items} items were not handled"
        run._end_unsent(step, dead_outcome("items failed", why) if unhandled else handled_outcome())
    elif sent < items and not again:
        run._plan_work("x", step)


def is_idle(run: Run, step: str) -> bool:
    """Whether a map has begun, and none of its items is out."""
    ended, _, _, sent = run.maps[step]
    return run.states[step][0] == "m" and ended == sent
