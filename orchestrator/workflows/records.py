"""The descriptions of a run and its steps: values that both backends return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.workflows.expansion import steps_in_place
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.core.workflows.run_state import FAILED, OPEN_STATES, RunState


class ControlResult(StrEnum):
    """The result of pausing, resuming or cancelling a run."""

    DONE = "done"
    TOO_LATE = "too late"
    NOT_PAUSED = "not paused"
    PAUSED_ALREADY = "paused already"
    CANCELLED_ALREADY = "cancelled already"
    #: Of a retry: the step was handled, was skipped, or has not ended.
    NOT_FAILED = "not failed"
    #: Of a retry: a dead letter of the step, or of an item of it, was replayed, and has no outcome yet.
    REPLAYED = "replayed"
    #: Of a retry: it is too late, for other steps have begun on the failure of this one; …
    OTHERS_BEGAN = "others began"
    #: … or nothing of its run begins any more: it was cancelled, is completed, or is or was compensated.
    RUN_CANCELLED = "run cancelled"
    RUN_COMPLETED = "run completed"
    RUN_COMPENSATED = "run compensated"
    #: Of a deletion: the run goes on; cancel it first, or delete it with ``force``. Of a compensation: cancel it with
    #: ``compensate``.
    NOT_ENDED = "not ended"
    #: Of a compensation: no step with a compensation was handled, or all are compensated.
    NOTHING_TO_COMPENSATE = "nothing to compensate"


class StepState(StrEnum):
    """The state of a step."""

    #: Waits for steps that it depends on.
    WAITING = "waiting"
    #: Could begin, but the run is paused or a failed step has stopped it.
    READY = "ready"
    #: Its message is on its way: in a mailbox, with a worker, or between two attempts.
    SENT = "sent"
    #: A map that has begun.
    ITEMS_SENT = "items sent"
    #: Waits for an event or a time.
    SUSPENDED = "suspended"
    #: No agent lives that offers what it needs; it is sent once one does.
    UNPLACED = "unplaced"
    #: Its handler has returned steps that have taken its place, and they have not all ended.
    EXPANDED = "expanded"
    #: A workflow function that waits for its calls.
    CALLING = "calling"
    HANDLED = "handled"
    DEAD = "dead"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


_STATES = {
    "w": StepState.WAITING, "r": StepState.READY, "s": StepState.SENT, "m": StepState.ITEMS_SENT,
    "u": StepState.SUSPENDED, "n": StepState.UNPLACED, "x": StepState.EXPANDED, "y": StepState.CALLING,
    "h": StepState.HANDLED, "d": StepState.DEAD, "e": StepState.EXPIRED, "c": StepState.CANCELLED,
    "k": StepState.SKIPPED,
}  # fmt: skip


def step_state(text: str) -> StepState:
    """The state of a step, from its text in the rule."""
    return _STATES[text[:1]] if text else StepState.WAITING


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as it was at one moment."""

    uid: str
    id: str
    name: str
    state: RunState
    paused: bool = False
    #: Steps in all, items of maps not counted.
    total: int = 0
    #: Messages and waits that are out: they have begun, and have no outcome yet.
    open: int = 0
    #: Messages and steps by outcome, items of maps included.
    handled: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    skipped: int = 0
    #: Why it was stopped, cancelled or compensated; empty otherwise.
    because: str = ""
    #: In ms since 1970, by Redis' clock; 0 if it has not ended.
    started_ms: int = 0
    ended_ms: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more happens in it by itself."""
        return self.ended_ms > 0 or (self.state not in OPEN_STATES and self.open == 0)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a run as it was at one moment."""

    number: str
    name: str
    state: StepState
    #: The names of the steps that depend on it.
    dependents: tuple[str, ...] = ()
    #: The number of steps that it depends on; of these, how many have ended; of those, how many were not handled.
    dependencies: int = 0
    ended: int = 0
    unhandled: int = 0
    #: Of a map: the number of its items; of these, how many have ended; of those, how many were not handled.
    items: tuple[int, int, int] | None = None
    plan: StepPlan | None = None
    #: The names of the steps that have taken its place, or that it has called; of a map, those of its items.
    expansion: tuple[str, ...] = ()
    #: Of a step that says what it needs: the agents that it may be placed with; of one that is sent the one that it was
    #: placed with; of a map the number of its items for which none lives.
    candidates: tuple[str, ...] = ()
    placed: str = ""
    unplaced: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The capabilities that its agent needs; empty if it names its agent."""
        return () if self.plan is None else tuple(self.plan.options.get("needs", ()))

    def __repr__(self) -> str:
        return f"<StepRecord {self.name!r}: {self.state}>"


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """The compensation of a handled step, or of an item of a map, as it was at one moment."""

    #: Its delivery is ``UID.NUMBER``.
    number: str
    #: The name of the step; of an item ``page[2]``.
    step: str
    #: ``WAITING`` until it is its turn.
    state: StepState
    #: If it was not handled: why, and the id of its dead letter.
    outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """As its message has it."""
        return f"{self.step}.undo"


@dataclass(frozen=True, slots=True)
class RunDetails:
    """A run with all of its steps, and its compensations once these have begun."""

    status: RunStatus
    steps: tuple[StepRecord, ...] = field(default_factory=tuple)
    #: The names of the events that were posted to it, sorted.
    posted: tuple[str, ...] = ()
    undos: tuple[UndoRecord, ...] = ()

    @property
    def awaited(self) -> frozenset[str]:
        """The names of the events that its steps wait for, or have waited for."""
        return frozenset(step.plan.options.get("event", "") for step in self.steps if step.plan is not None) - {""}

    @property
    def progress(self) -> float:
        """The share of its messages and other steps that have ended, from 0 to 1; a map counts by its items."""
        if self.status.state is RunState.COMPLETED:
            return 1.0
        shares = [_share(step) for step in self.steps]
        return sum(ended for ended, _ in shares) / max(1, sum(count for _, count in shares))


#: States in which a step has ended.
ENDED_STATES = frozenset({StepState.HANDLED, StepState.DEAD, StepState.EXPIRED, StepState.CANCELLED, StepState.SKIPPED})


def _share(step: StepRecord) -> tuple[int, int]:
    """The ended parts of a step, and all of them; a map that has not begun is as one message."""
    if step.items is None or step.items[0] == 0:
        return int(step.state in ENDED_STATES), 1
    count, ended, _ = step.items
    return (count if step.state is StepState.CANCELLED else ended), count


#: Counts and times of a run.
_COUNTS = (
    "total", "open", "handled", "dead", "expired", "cancelled", "skipped", "started_ms", "ended_ms",
)  # fmt: skip


def status_from(uid: str, run: Mapping[str, Any]) -> RunStatus:
    """A run's status from its fields."""

    def number(name: str) -> int:
        return int(run.get(name) or 0)

    return RunStatus(
        uid=uid,
        id=str(run["id"]),
        name=str(run["name"]),
        state=RunState(run["state"]),
        paused=run.get("paused") == "1",
        because=str(run.get("because", "")),
        **{name: number(name) for name in _COUNTS},
    )


def is_step(number: str) -> bool:
    """Whether a number in a plan is that of a step, or of what begins the steps that take the place of one."""
    return number.isdigit() or number[:1] == "x"


def failed_undos(states: Mapping[str, str]) -> list[str]:
    """The numbers of the compensations that were not handled."""
    return [step for step, state in states.items() if step.startswith("u") and state[:1] in FAILED]


def undo_records(
    plan: Mapping[str, StepPlan],
    states: Mapping[str, str],
    owed: Sequence[str],
    outcomes: Mapping[str, Outcome | None],
) -> tuple[UndoRecord, ...]:
    """The compensations of a run: those that have begun, the last step first, then those that are ``owed``, by turns.

    ``outcomes`` are those of :func:`failed_undos`.
    """

    def place(step: str) -> list[int]:
        return [int(part) for part in step[1:].split(".")]

    def record(step: str) -> UndoRecord:
        number, _, item = step[1:].partition(".")
        name = plan[number].name + (f"[{item}]" if item else "")
        return UndoRecord(step, name, step_state(states.get(step, "")), outcomes.get(step))

    begun = sorted((step for step in states if step.startswith("u")), key=place, reverse=True)
    return tuple(map(record, begun + [f"u{step}" for step in reversed(owed)]))


def step_records(
    plan: Mapping[str, StepPlan],
    states: Mapping[str, str],
    maps: Mapping[str, Sequence[int]],
    declared: int,
    candidates: Mapping[str, Sequence[str]],
) -> tuple[StepRecord, ...]:
    """The steps of a run: those that it was started with, and those that have taken the place of others.

    ``candidates`` are the agents that steps may be placed with, by the numbers of these steps.
    """
    unplaced = Counter(number_of(step) for step, state in states.items() if "." in step and state == "n")
    numbers = list(map(str, range(declared)))
    expansions: dict[str, list[str]] = {}
    for owner, added in steps_in_place(plan, states).items():
        numbers += map(str, added)
        expansions.setdefault(number_of(owner), []).extend(plan[str(number)].name for number in added)
    records = []
    for number in sorted(numbers, key=int):
        one, state = plan[number], states.get(number, "")
        ended, unhandled = (int(part) for part in state[1:].split(",")) if state[:1] == "w" else (0, 0)
        items = maps.get(number)
        agents = tuple(candidates.get(number, ()))
        place = state.partition(",")[2] if state[:1] == "s" else ""
        records.append(
            StepRecord(
                number=number,
                name=one.name,
                state=step_state(state),
                dependents=tuple(plan[str(dependent)].name for dependent in one.dependents),
                dependencies=one.dependencies,
                ended=ended,
                unhandled=unhandled,
                items=None if items is None else (items[2], items[0], items[1]),
                plan=one,
                expansion=tuple(expansions.get(number, ())),
                candidates=agents,
                placed=agents[int(place) - 1] if place and agents else "",
                unplaced=unplaced[number],
            )
        )
    return tuple(records)
