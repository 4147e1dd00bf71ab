"""The rule of a workflow's run: what each recorded outcome releases, and how the run ends.

Pure: methods change the state and return what is to be done outside. ``includes/runs.lua`` is the same rule over Redis,
in slices; one state machine drives both. Eager mode runs by this one.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.workflow_plan import Kind, OnFailure, StepPlan, When, number_of, numbers_in


class RunState(StrEnum):
    """Where a run is."""

    #: Its plan is not complete in Redis.
    WRITING = "writing"
    RUNNING = "running"
    #: A step has failed; nothing more begins, and it ends when no step is out.
    STOPPING = "stopping"
    COMPENSATING = "compensating"
    #: It has ended, and each step was handled, was skipped, or failed where another step depends on that.
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Every compensation was handled; some were not.
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation failed"


#: States in which a run may still change by itself.
OPEN_STATES: Final = frozenset({RunState.WRITING, RunState.RUNNING, RunState.STOPPING, RunState.COMPENSATING})

#: States in which its compensation has begun; a dead letter of it is not replayed.
COMPENSATION_STATES: Final = frozenset({RunState.COMPENSATING, RunState.COMPENSATED, RunState.COMPENSATION_FAILED})

#: A step's letter once it has ended, and its name.
ENDED: Final = {"h": "handled", "d": "dead", "e": "expired", "c": "cancelled", "k": "skipped"}
_LETTERS: Final = {name: letter for letter, name in ENDED.items()}


@dataclass(slots=True)
class Effects:
    """What is to be done outside of the rule, in this order."""

    #: Steps whose messages are to be sent.
    send: list[str] = field(default_factory=list)
    #: Steps whose messages are to be taken back if no worker holds them, and whether because they are cancelled.
    take_back: list[tuple[str, bool]] = field(default_factory=list)
    #: Steps that wait for a time, in ms from now.
    timers: list[tuple[str, int]] = field(default_factory=list)
    #: Whether the run had ended, and goes on.
    revived: bool = False
    #: The state in which the run has ended just now.
    ended: RunState | None = None


@dataclass(slots=True)
class Run:
    """A run's state."""

    plan: Mapping[str, StepPlan]
    on_failure: OnFailure = OnFailure.STOP
    state: RunState = RunState.RUNNING
    paused: bool = False
    compensate: bool = False
    #: Step -> a letter and its values, as in the script.
    states: dict[str, str] = field(default_factory=dict)
    #: Step -> its outcome as JSON data.
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Map -> items ended, not handled, in all, sent.
    maps: dict[str, list[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    ready: deque[str] = field(default_factory=deque)
    undo: list[str] = field(default_factory=list)
    events: dict[str, Any] = field(default_factory=dict)
    has_ended: bool = False
    _work: deque[tuple[str, str]] = field(default_factory=deque)
    _effects: Effects = field(default_factory=Effects)

    # -- events

    def start(self) -> Effects:
        """Release the steps that depend on nothing."""
        for number, step in self.plan.items():
            if step.dependencies == 0 and not number.startswith("u"):
                self._release(number)
        return self._close()

    def step_ended(self, step: str, outcome: Mapping[str, Any]) -> Effects:
        """The message of a step has its outcome."""
        self.outcomes[step] = outcome
        self._ended(step, str(outcome["outcome"]))
        return self._close()

    def pause(self) -> Effects:
        """Begin no further step, and take back what no worker has begun."""
        self.paused = True
        self._effects.take_back += [(step, False) for step, state in self.states.items() if state[0] == "s"]
        return self._close()

    def resume(self) -> Effects:
        """Go on after a pause."""
        self.paused = False
        self._plan_ready()
        return self._close()

    def cancel(self, *, compensate: bool = False) -> Effects:
        """Begin nothing more, and end what has not begun."""
        if self.state not in (RunState.RUNNING, RunState.STOPPING):
            return Effects()
        self.state, self.compensate = RunState.CANCELLED, compensate
        for step, state in list(self.states.items()):
            if state[0] == "s":
                self._effects.take_back.append((step, True))
            elif state[0] == "u":
                self._cancelled(step)
            elif state[0] == "m":
                self.maps[step][2] = self.maps[step][3]
        return self._close()

    def taken_back(self, step: str, *, cancelled: bool) -> Effects:
        """The message of a step was taken back before a worker had it."""
        if cancelled:
            self._cancelled(step)
        else:
            self.counts["open"] -= 1
            self._park(step)
        return self._close()

    def happened(self, event: str, payload: Any) -> Effects:
        """An event has come: for steps that wait for it now, and for those that will. The first one counts."""
        if event not in self.events:
            self.events[event] = payload
            for step in [step for step, state in self.states.items() if state[0] == "u"]:
                if self.plan[step].options.get("event") == event:
                    self._happened(step, payload)
        return self._close()

    def time_came(self, step: str) -> Effects:
        """The time of a step that waits has come: a pause ends, an event is too late."""
        if self.states.get(step, "")[:1] == "u":
            if self.plan[step].options.get("event"):
                self._end_unsent(step, _dead("timeout", "the event did not come in time"))
            else:
                self._happened(step, None)
        return self._close()

    # -- the rule

    def _release(self, step: str) -> None:
        if self.state is RunState.STOPPING or (self.state is RunState.RUNNING and self.paused):
            self._park(step)
        elif self.state is RunState.RUNNING:
            self._begin(step)

    def _park(self, step: str) -> None:
        self.states[step] = "r"
        self.ready.append(step)

    def _begin(self, step: str) -> None:
        kind = self.plan[number_of(step)].kind
        if kind is Kind.TASK or "." in step:
            self._send(step)
        elif kind is Kind.JOIN:
            self.counts["open"] += 1
            self._end_unsent(step, _handled())
        elif kind is Kind.MAP:
            self._begin_map(step)
        else:
            self._begin_wait(step)

    def _send(self, step: str) -> None:
        self.states[step] = "s"
        self.counts["open"] += 1
        self._effects.send.append(step)

    def _begin_map(self, step: str) -> None:
        options = self.plan[step].options
        items = self._items(options)
        self.counts["open"] += 1
        if items is None:
            self._end_unsent(step, _dead("validation", f"map over what is no list: {options['says']}"))
            return
        self.maps[step] = [0, 0, items, 0]
        if items == 0:
            self._end_unsent(step, _handled())
            return
        self.states[step] = "m"
        self._work.append(("items", step))

    def _items(self, options: Mapping[str, Any]) -> int | None:
        over, path = str(options["over"]), options["path"]
        if self.plan[over].kind is Kind.MAP and not path:
            return self.maps[over][2]
        value = self.outcomes[over].get("result")
        for name in path:
            try:
                value = value[name]  # type: ignore[index]
            except (TypeError, KeyError, IndexError):
                return None
        return len(value) if isinstance(value, list) else 0 if value == {} else None

    def _begin_wait(self, step: str) -> None:
        options = self.plan[step].options
        self.counts["open"] += 1
        event = options.get("event")
        if event and event in self.events:
            self._happened(step, self.events[event])
            return
        self.states[step] = "u"
        if options.get("ms") is not None:
            self._effects.timers.append((step, options["ms"]))

    def _happened(self, step: str, payload: Any) -> None:
        self._end_unsent(step, {"outcome": "handled", "attempts": 0, "result": payload})

    def _end_unsent(self, step: str, outcome: Mapping[str, Any]) -> None:
        self.outcomes[step] = outcome
        self._ended(step, outcome["outcome"])

    def _cancelled(self, step: str) -> None:
        self.states[step] = "c"
        self.outcomes[step] = {"outcome": "cancelled", "by": "its run was cancelled"}
        self.counts["cancelled"] += 1
        self.counts["open"] -= 1

    def _dependency_ended(self, number: int, handled: bool) -> None:
        step = str(number)
        state = self.states.get(step, "w0,0")
        if state[0] != "w":
            return
        ended, unhandled = (int(part) for part in state[1:].split(","))
        ended, unhandled = ended + 1, unhandled + (not handled)
        plan = self.plan[step]
        if ended < plan.dependencies:
            self.states[step] = f"w{ended},{unhandled}"
        elif When(plan.when).holds(ended, unhandled):
            self._release(step)
        else:
            self.states[step] = "k"
            self.counts["skipped"] += 1
            if plan.when is When.ANY_HANDLED and not plan.guarded:
                self._failed()
            else:
                self._work.append(("dependents", step))

    def _call_errbacks(self, plan: StepPlan) -> None:
        """A step is dead: its errbacks begin, unless another step has called them."""
        for number in numbers_in(plan.options.get("errbacks", "")):
            if str(number) not in self.states:
                self._release(str(number))

    def _failed(self) -> None:
        """A step has failed, and no other one is there for that."""
        self.counts["failures"] += 1
        if self.state is RunState.RUNNING and self.on_failure is not OnFailure.CONTINUE:
            self.state = RunState.STOPPING

    def _send_items(self, step: str) -> None:
        if self.state is not RunState.RUNNING or self.paused:
            return
        ended, unhandled, items, sent = self.maps[step]
        limit = self.plan[step].options.get("limit") or items
        while sent < items and sent - ended < limit:
            self._send(f"{step}.{sent}")
            sent += 1
        self.maps[step] = [ended, unhandled, items, sent]

    def _plan_ready(self) -> None:
        self._work.append(("ready", ""))
        self._work.extend(("items", step) for step in self.maps)

    def _send_ready(self) -> None:
        while self.state is RunState.RUNNING and not self.paused and self.ready:
            step = self.ready.popleft()
            if self.states[step] == "r":
                self._begin(step)

    def _item_ended(self, step: str, handled: bool, *, again: bool = False) -> None:
        ended, unhandled, items, sent = self.maps[step]
        if again:
            unhandled -= 1
        else:
            ended, unhandled = ended + 1, unhandled + (not handled)
        self.maps[step] = [ended, unhandled, items, sent]
        if ended == items and (not again or unhandled == 0):
            why = f"{unhandled} of {items} items were not handled"
            self._end_unsent(step, _dead("items failed", why) if unhandled else _handled())
        elif sent < items:
            self._work.append(("items", step))

    def _revived(self, step: str, was: str) -> None:
        self.states[step] = "h"
        self.counts[ENDED[was]] -= 1
        self.counts["handled"] += 1
        if "." in step:
            self._item_ended(number_of(step), True, again=True)
            return
        plan = self.plan[step]
        if plan.guarded:
            return
        self.counts["failures"] -= 1
        if self.state not in (RunState.RUNNING, RunState.STOPPING, RunState.FAILED):
            return
        if plan.undo:
            self.undo.append(step)
        self._work.append(("dependents", step))
        if self.counts["failures"] > 0:
            return
        self._effects.revived = self.has_ended
        self.state, self.has_ended = RunState.RUNNING, False
        self._plan_ready()

    def _ended(self, step: str, outcome: str) -> None:
        was = self.states.get(step, "")[:1]
        if was in ENDED:
            if outcome == "handled" and was != "h":
                self._revived(step, was)
            return
        self.states[step] = _LETTERS[outcome]
        self.counts["open"] -= 1
        handled = outcome == "handled"
        if step.startswith("u"):
            self.counts["undo_failures"] += not handled
            return
        self.counts[outcome] += 1
        plan = self.plan[number_of(step)]
        if handled and plan.undo:
            self.undo.append(step)
        if outcome == "dead" and "." not in step:
            self._call_errbacks(plan)
        if "." in step:
            self._item_ended(number_of(step), handled)
        elif handled or plan.guarded:
            self._work.append(("dependents", step))
        else:
            self._failed()

    def _work_off(self) -> None:
        while self._work:
            kind, step = self._work.popleft()
            if kind == "dependents":
                handled = self.states[step] == "h"
                for dependent in self.plan[step].dependents:
                    self._dependency_ended(dependent, handled)
            elif kind == "items":
                self._send_items(step)
            else:
                self._send_ready()

    def _end(self, state: RunState) -> None:
        self.state, self.has_ended, self._effects.ended = state, True, state

    def _end_or_undo(self) -> bool:
        """Nothing is out: end the run, or send its next compensation. Returns whether there is more to do."""
        match self.state:
            case RunState.RUNNING:
                if self.ready:
                    return False
                if self.counts["failures"] > 0:
                    self.state = RunState.STOPPING
                    return True
                self._end(RunState.COMPLETED)
            case RunState.STOPPING | RunState.CANCELLED:
                wanted = self.compensate
                if self.state is RunState.STOPPING:
                    wanted = self.on_failure is OnFailure.COMPENSATE
                if wanted and self.undo:
                    self.state = RunState.COMPENSATING
                    return True
                if not self.has_ended:
                    cancelled = self.state is RunState.CANCELLED
                    self._end(RunState.CANCELLED if cancelled else RunState.FAILED)
            case RunState.COMPENSATING:
                if self.undo:
                    self._send(f"u{self.undo.pop()}")
                    return True
                failed = self.counts["undo_failures"] > 0
                self._end(RunState.COMPENSATION_FAILED if failed else RunState.COMPENSATED)
        return False

    def _close(self) -> Effects:
        while True:
            self._work_off()
            if self.counts["open"] > 0 or not self._end_or_undo():
                effects, self._effects = self._effects, Effects()
                return effects


def _handled() -> dict[str, Any]:
    return {"outcome": "handled", "result": None, "attempts": 0}


def _dead(reason: str, error: str) -> dict[str, Any]:
    return {"outcome": "dead", "reason": reason, "error": error, "attempts": 0}


def outcome_json(outcome: Mapping[str, Any]) -> str:
    """An outcome as it is kept in a run."""
    return json.dumps(outcome, separators=(",", ":"))
