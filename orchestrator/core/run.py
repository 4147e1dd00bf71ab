"""The rule of a workflow's run: what each recorded outcome releases, and how the run ends.

Methods change the state and return what is to be done outside. ``includes/runs.lua`` is the same rule over Redis, with
the same names, in the same order; one state machine in the tests drives both. Eager mode runs by this one. Parts of it
are in ``run_maps.py``, ``run_recalls.py``, ``run_retries.py``, ``run_placement.py`` and ``run_calls.py``.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.placement import UNPLACED, unplaced_error
from orchestrator.core.run_calls import (
    CALLER,
    Suspended,
    call_ended,
    call_revived,
    has_seen,
    late_outcome,
    retry_call,
    suspend,
)
from orchestrator.core.run_maps import begin_map, is_unsent, item_ended, send_items
from orchestrator.core.run_placement import leave_unplaced, place_unplaced
from orchestrator.core.run_recalls import recall, send_ready
from orchestrator.core.run_retries import compensate_after_all, remember_undo, reopen, retry, unfail
from orchestrator.core.run_state import (
    COMPENSATION_STATES,
    DEAD_BY_DEPLOYMENT,
    DEPLOYMENT_REASONS,
    ENDED,
    FAILED,
    LETTERS,
    NO_RETRY,
    STOPPED,
    Effects,
    RunState,
    dead_outcome,
    handled_outcome,
)
from orchestrator.core.workflow_plan import Kind, OnFailure, StepPlan, When, number_of, numbers_in


def _keep(_step: str, _cancelled: bool) -> bool:
    return False


def _nowhere(_step: str) -> int | None:
    return None


def _lives(_step: str) -> bool:
    return False


@dataclass(slots=True)
class Run:
    """A run's state."""

    plan: Mapping[str, StepPlan]
    on_failure: OnFailure = OnFailure.STOP
    #: Takes back the message of a step, and says whether it could: no worker has it, and it is not between attempts.
    #: If it could not and the step is cancelled, the step is not attempted again.
    take_back: Callable[[str, bool], bool] = _keep
    #: Of a step with ``needs``: the place of the candidate that gets it, ``None`` if none lives; and whether the one
    #: that it was placed with is lost, so that none of its incarnations lives.
    place: Callable[[str], int | None] = _nowhere
    is_lost: Callable[[str], bool] = _lives
    #: Most steps that one call deals with; the rest waits for :meth:`advance`.
    budget: float = math.inf
    state: RunState = RunState.RUNNING
    paused: bool = False
    compensate: bool = False
    #: Step -> its state, one character and its values, as ``includes/runs.lua`` describes them.
    states: dict[str, str] = field(default_factory=dict)
    #: Step -> its outcome as JSON data.
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Map -> items ended, not handled, in all, sent.
    maps: dict[str, list[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    #: Workflow function -> its calls; see :class:`orchestrator.core.run_calls.CallList`.
    calls: dict[str, str] = field(default_factory=dict)
    ready: deque[str] = field(default_factory=deque)
    undo: list[str] = field(default_factory=list)
    #: Steps with ``needs``: those that were sent, with the place of their candidate; and those for which none lives,
    #: the one first that waits longest since it was last tried.
    placed: dict[str, int] = field(default_factory=dict)
    unplaced: dict[str, None] = field(default_factory=dict)
    events: dict[str, Any] = field(default_factory=dict)
    #: The steps that depend on nothing, once it has started.
    roots: tuple[int, ...] = ()
    has_ended: bool = False
    #: Steps of which a dead letter was replayed and has no outcome yet. Eager mode replays at once, and has none.
    replayed: set[str] = field(default_factory=set)
    #: Work that is planned: its kind, its step, and the position to go on from.
    agenda: deque[tuple[str, str, int]] = field(default_factory=deque)
    _left: float = 0
    _effects: Effects = field(default_factory=Effects)

    # -- events

    def start(self, ended: Iterable[str] = ()) -> Effects:
        """Release the steps that depend on nothing; in a fork, also those that depend on steps that have ``ended``."""
        self._open()
        if not self.roots:
            self.roots = tuple(int(n) for n, plan in self.plan.items() if n.isdigit() and plan.dependencies == 0)
        for step in ended:
            self._plan_work("d", step)
        self.states["start"] = "h"
        self._plan_work("d", "start")
        return self._close()

    def advance(self) -> Effects:
        """Go on with what is planned."""
        self._open()
        return self._close()

    def add_steps(self, steps: Mapping[str, StepPlan]) -> None:
        """Add steps that a handler has returned or called to the plan; its outcome begins them."""
        self.plan = {**self.plan, **steps}

    def step_ended(self, step: str, outcome: Mapping[str, Any]) -> Effects:
        """The message of a step has its outcome; it may be that other steps take its place."""
        self._open()
        self.replayed.discard(step)
        if Suspended.FIELD in outcome:
            suspend(self, step, outcome)
            return self._close()
        if "expanded" in outcome and self._expand(step, outcome):
            return self._close()
        if has_seen(self, step):
            late_outcome(self, step, outcome)
            return self._close()
        self.outcomes[step] = outcome
        if self.states.get(step) in ("s", "n"):
            self.counts["open"] -= 1
            self.unplaced.pop(step, None)
        self._ended(step, str(outcome["outcome"]), outcome.get("reason"))
        return self._close()

    def pause(self) -> Effects:
        """Begin no further step, and take back what no worker has begun."""
        self._open()
        self.paused = True
        self._plan_work("p")
        return self._close()

    def resume(self) -> Effects:
        """Go on after a pause."""
        self._open()
        self.paused = False
        self._plan_work("r")
        return self._close()

    def cancel(self, *, compensate: bool = False) -> Effects:
        """Begin nothing more, and end what has not begun. A pause ends, so that nothing holds up compensations."""
        self._open()
        if self.state in (RunState.QUEUED, RunState.RUNNING, RunState.STOPPING):
            self.state, self.compensate, self.paused = RunState.CANCELLED, compensate, False
            self._plan_work("c")
        return self._close()

    def retry(self, step: str) -> tuple[str, Effects]:
        """Have a step that was not handled begin again, of a map its items that were not; and its run go on.

        Returns what that came to, too: ``done``; ``not failed``; ``replayed`` if a letter of it is out; ``others
        began`` on its failure; and if its run does not go on any more ``run cancelled``, ``run completed`` or ``run
        compensated``.
        """
        self._open()
        was = self.states.get(step, "")[:1]
        if was not in FAILED:
            return "not failed", Effects()
        if any(step in (one, number_of(one)) for one in self.replayed):
            return "replayed", Effects()
        if self.state not in (RunState.RUNNING, *STOPPED):
            return NO_RETRY.get(self.state, "run compensated"), Effects()
        if CALLER in self.plan[step].options:
            return ("done", self._close()) if retry_call(self, step, was) else ("others began", Effects())
        if self.plan[step].guarded:
            return "others began", Effects()
        retry(self, step, was)
        return "done", self._close()

    def why_not_replayed(self, step: str) -> str:
        """Why a dead letter of a step is not replayed; empty if it may be.

        ``run ended`` if the compensation of its run has begun, of which it is no part; ``step goes on`` if it has begun
        again or is about to, or another letter is out: of two messages the one that ends first would be the step's
        outcome.
        """
        if self.state in COMPENSATION_STATES and not step.startswith("u"):
            return "run ended"
        is_failed = self.states.get(step, "")[:1] in FAILED
        may_be = is_failed and step not in self.replayed and not is_unsent(self, step)
        return "" if may_be else "step goes on"

    def happened(self, event: str, payload: Any) -> Effects:
        """An event has come: for steps that wait for it now, and for those that will. The first one counts."""
        self._open()
        if event not in self.events:
            self.events[event] = payload
            self._plan_work("e", event)
        return self._close()

    def place_again(self, *, is_lost: bool) -> Effects:
        """Place unplaced steps again; if an agent ``is_lost``, also those that it was to get and has not begun."""
        self._open()
        if is_lost:
            self._plan_work("a")
        self.agenda.append(("n", "", len(self.unplaced)))
        return self._close()

    def time_came(self, step: str) -> Effects:
        """The time of a wait has come: a wait for a time is handled; a wait for an event is dead, for none came.

        An unplaced step is dead, for no agent came.
        """
        self._open()
        if self.states.get(step) == "n":
            self.counts["open"] -= 1
            self.unplaced.pop(step)
            needs = self.plan[number_of(step)].options["needs"]
            self._end_unsent(step, dead_outcome(UNPLACED, unplaced_error(needs)))
        elif self.states.get(step) == "u":
            if self.plan[step].options.get("event"):
                self.counts["open"] -= 1
                self._end_unsent(step, dead_outcome("timeout", "the event did not come in time"))
            else:
                self._happened(step, None)
        return self._close()

    # -- the rule

    def _open(self) -> None:
        self._left = self.budget

    def _plan_work(self, kind: str, step: str = "") -> None:
        self.agenda.append((kind, step, 0))

    def _release(self, step: str) -> None:
        if self.state in STOPPED or (self.state is RunState.RUNNING and self.paused):
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
            self._end_unsent(step, handled_outcome())
        elif kind is Kind.MAP:
            begin_map(self, step)
        else:
            self._begin_wait(step)

    def _send(self, step: str) -> None:
        plan = self.plan.get(number_of(step))
        if plan is not None and "needs" in plan.options:
            candidate = self.place(step)
            if candidate is None:
                leave_unplaced(self, step, plan.options.get("within_ms"))
                return
            self.placed[step] = candidate
        self._sent(step)

    def _sent(self, step: str) -> None:
        self.states[step] = "s"
        self.counts["open"] += 1
        self._left -= 1
        self._effects.send.append(step)

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
        """What a step waited for has happened."""
        self.counts["open"] -= 1
        self._end_unsent(step, {"outcome": "handled", "attempts": 0, "result": payload})

    def _end_unsent(self, step: str, outcome: Mapping[str, Any]) -> None:
        """A step ends without a message."""
        self.outcomes[step] = outcome
        self._ended(step, outcome["outcome"])

    def _cancelled(self, step: str) -> None:
        """A step ends because its run was cancelled before it began."""
        self.states[step] = "c"
        self.outcomes[step] = {"outcome": "cancelled", "by": "its run was cancelled"}
        self.counts["cancelled"] += 1
        if "." in step:
            item_ended(self, number_of(step), False)

    def _dependency_ended(self, number: int, handled: bool) -> None:
        """One dependency of a step has ended. When all have, it begins or is skipped."""
        if self.state is not RunState.RUNNING and self.state not in STOPPED:
            return
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
            if plan.when is When.ANY_HANDLED:
                self._fail_expansion(plan)
            if plan.when is When.ANY_HANDLED and not plan.guarded:
                self._failed()
            else:
                self._plan_work("d", step)

    def _call_errbacks(self, step: str) -> None:
        """A step is dead: its errbacks begin, unless another step has called them."""
        options = self.plan[step].options
        for number in numbers_in(options.get("errbacks", "")):
            if str(number) not in self.states:
                of = {"task": options["task"]} if "task" in options else {}
                self.outcomes[f"e{number}"] = {"outcome": "dead", "step": step, **of}
                self._release(str(number))

    def _failed(self) -> None:
        """A step that is not guarded has failed. If that stops the run, its waits are parked, so that it can end."""
        self.counts["failures"] += 1
        if self.state is RunState.RUNNING and self.on_failure is not OnFailure.CONTINUE:
            self.state = RunState.STOPPING
            self._plan_work("w")

    def _resolve_dependents(self, step: str, at: int) -> int | None:
        steps = self.roots if step == "start" else self.plan[step].dependents
        handled = self.states[step] == "h"
        for place in range(at, len(steps)):
            if self._left <= 0:
                return place
            self._left -= 1
            self._dependency_ended(steps[place], handled)
        return None

    def _event_came(self, event: str, at: int) -> int | None:
        steps = [number for number, plan in self.plan.items() if plan.options.get("event") == event]
        for place in range(at, len(steps)):
            if self._left <= 0:
                return place
            self._left -= 1
            if self.states.get(steps[place]) == "u":
                self._happened(steps[place], self.events[event])
        return None

    def _taken_back(self, step: str, *, cancelled: bool) -> None:
        self.counts["open"] -= 1
        if cancelled:
            self._cancelled(step)
        elif step.startswith("u"):
            del self.states[step]
            self.undo.append(step[1:])
        else:
            self._park(step)

    def _revived(self, step: str, was: str) -> None:
        """A step that was not handled is handled after all, because its dead letter was replayed."""
        self._leave_deployment(step)
        self.states[step] = "h"
        if step.startswith("u"):
            self.counts["undo_failures"] -= 1
            if self.state is RunState.COMPENSATION_FAILED and self.counts["undo_failures"] == 0:
                self.state = RunState.COMPENSATED
            return
        self.counts[ENDED[was]] -= 1
        self.counts["handled"] += 1
        remember_undo(self, step)
        if "." in step:
            item_ended(self, number_of(step), True, again=True)
            return
        if CALLER in self.plan[step].options:
            call_revived(self, self.plan[step].options[CALLER])
            return
        if self.plan[step].guarded:
            # What depends on it went on without it.
            return
        self.counts["failures"] -= 1
        if self.state is not RunState.RUNNING and self.state not in STOPPED:
            return
        self._plan_work("d", step)
        if self.counts["failures"] == 0:
            reopen(self, RunState.RUNNING)
            self._plan_work("r")

    def _leave_deployment(self, step: str) -> None:
        """A step is not dead by the deployment any more, if it was."""
        self.counts["deploy_failures"] -= self.states[step] == DEAD_BY_DEPLOYMENT

    def _forget_outcome(self, step: str, was: str) -> None:
        self._leave_deployment(step)
        self.counts[ENDED[was]] -= 1
        del self.states[step]
        self.outcomes.pop(step, None)

    def _ended_again(self, step: str, state: str, outcome: str, reason: str | None) -> None:
        """The replayed letter of a step has its outcome."""
        if outcome == "handled" and state != "h":
            self._revived(step, state[0])
        elif state == DEAD_BY_DEPLOYMENT and outcome == "dead" and reason not in DEPLOYMENT_REASONS:
            self._leave_deployment(step)
            self.states[step] = "d"
        if state == DEAD_BY_DEPLOYMENT:
            compensate_after_all(self)

    def _ended(self, step: str, outcome: str, reason: str | None = None) -> None:
        """A step has ended; ``outcome`` is one of ``handled``, ``dead``, ``expired`` and ``cancelled``."""
        state = self.states.get(step, "")
        was = state[:1]
        if was in ENDED:
            self._ended_again(step, state, outcome, reason)
            return
        self.states[step] = LETTERS[outcome]
        handled = outcome == "handled"
        if step.startswith("u"):
            self.counts["undo_failures"] += not handled
            return
        if outcome == "dead" and reason in DEPLOYMENT_REASONS and not self.plan[number_of(step)].guarded:
            self.states[step] = DEAD_BY_DEPLOYMENT
            self.counts["deploy_failures"] += 1
        self.counts[outcome] += 1
        if handled and was != "x":
            remember_undo(self, step)
        elif not handled and "." not in step:
            self._fail_expansion(self.plan[step])
            if outcome == "dead":
                self._call_errbacks(step)
        if "." in step:
            item_ended(self, number_of(step), handled)
        elif "of" in self.plan[step].options:
            self._expansion_ended(self.plan[step].options["of"])
        elif CALLER in self.plan[step].options:
            call_ended(self, self.plan[step].options[CALLER])
        elif handled or self.plan[step].guarded:
            if self.plan[step].dependents:
                self._plan_work("d", step)
        else:
            self._failed()

    # -- expansions

    def _expand(self, step: str, outcome: Mapping[str, Any]) -> bool:
        """The steps that a step has returned take its place. Returns false if it is too late for them."""
        was = self.states.get(step, "")[:1]
        if (self.state is not RunState.RUNNING and self.state not in STOPPED) or step.startswith("u"):
            return False
        if was == "s":
            self.counts["open"] -= 1
        elif was not in FAILED or not unfail(self, step, was):
            return False
        begin = f"x{outcome['expanded']['first']}"
        self.states[step] = f"{begin},0"
        self.states[begin] = "h"
        self.outcomes[begin] = outcome
        # Its handler has run, so that its compensation comes after those of the steps that take its place.
        remember_undo(self, step)
        self._plan_work("d", begin)
        return True

    def _fail_expansion(self, plan: StepPlan) -> None:
        """A step was not handled; if it is in the place of one that is guarded, that one is dead in the end."""
        owner = plan.options.get("fails", "")
        if self.states.get(owner, "")[:1] == "x":
            self.states[owner] = self.states[owner].partition(",")[0] + ",1"

    def _expansion_ended(self, owner: str) -> None:
        """All steps have ended that are in the place of a step."""
        begin, _, failed = self.states[owner].partition(",")
        if begin[0] != "x":
            return
        if failed == "1":
            self._end_unsent(owner, dead_outcome("steps failed", "steps that took its place were not handled"))
        else:
            self._end_unsent(owner, self.outcomes[begin])

    def _work_off(self) -> None:
        while self._left > 0 and self.agenda:
            kind, step, at = self.agenda.popleft()
            left: int | None = None
            if kind == "d":
                left = self._resolve_dependents(step, at)
            elif kind == "e":
                left = self._event_came(step, at)
            elif kind == "x":
                left = send_items(self, step)
            elif kind == "r":
                left = send_ready(self)
            elif kind == "n":
                left = place_unplaced(self, at)
            else:
                recall(self, kind)
            if left is not None:
                self.agenda.appendleft((kind, step, left))

    def _end(self, state: RunState) -> None:
        # A pause ends with the run: what a replay releases later would wait for ever.
        self.state, self.has_ended, self.paused, self._effects.ended = state, True, False, state

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
                    # What a deploy repairs is not undone: a retry goes on.
                    wanted = self.on_failure is OnFailure.COMPENSATE and self.counts["deploy_failures"] == 0
                if wanted and self.undo:
                    self.state = RunState.COMPENSATING
                    return True
                if not self.has_ended:
                    cancelled = self.state is RunState.CANCELLED
                    self._end(RunState.CANCELLED if cancelled else RunState.FAILED)
            case RunState.COMPENSATING:
                if self.paused:
                    return False
                if self.undo:
                    self._send(f"u{self.undo.pop()}")
                    return True
                failed = self.counts["undo_failures"] > 0
                self._end(RunState.COMPENSATION_FAILED if failed else RunState.COMPENSATED)
        return False

    def _close(self) -> Effects:
        while True:
            self._work_off()
            if self.agenda or self.counts["open"] > 0 or not self._end_or_undo():
                effects, self._effects = self._effects, Effects()
                effects.is_left = bool(self.agenda)
                return effects


def outcome_json(outcome: Mapping[str, Any]) -> str:
    """An outcome as it is kept in a run."""
    return json.dumps(outcome, separators=(",", ":"))
