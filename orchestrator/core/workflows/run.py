"""The rule of a workflow's run: what each recorded outcome releases, and how the run ends.

Methods change the state and return what is to be done outside. ``includes/runs.lua`` is the same rule over Redis, with
the same names; one state machine in the tests drives both. Eager mode runs by this one. Parts of it are in
``run_waits.py``, ``run_maps.py``, ``run_expansions.py``, ``run_calls.py``, ``run_placement.py``, ``run_recalls.py``,
``run_retries.py``, ``run_replays.py`` and ``run_ends.py``.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.workflows.plan import Kind, OnFailure, StepPlan, When, number_of
from orchestrator.core.workflows.run_calls import (
    CALLER,
    Suspended,
    call_ended,
    has_letter_out,
    has_seen,
    late_outcome,
    retry_call,
    suspend,
)
from orchestrator.core.workflows.run_ends import end_or_undo
from orchestrator.core.workflows.run_expansions import call_errbacks, expand, expansion_ended, fail_expansion
from orchestrator.core.workflows.run_maps import begin_map, item_ended, send_items
from orchestrator.core.workflows.run_placement import leave_unplaced, place_unplaced
from orchestrator.core.workflows.run_recalls import recall, send_ready
from orchestrator.core.workflows.run_replays import ended_again, why_not_replayed
from orchestrator.core.workflows.run_retries import remember_undo, reopen, retry
from orchestrator.core.workflows.run_state import (
    DEAD_BY_DEPLOYMENT,
    DEPLOYMENT_REASONS,
    ENDED,
    FAILED,
    LETTERS,
    NO_RETRY,
    STOPPED,
    Effects,
    RunState,
    handled_outcome,
)
from orchestrator.core.workflows.run_waits import begin_wait, event_came, time_came


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
    #: that it was placed with is down, so that none of its incarnations lives.
    place: Callable[[str], int | None] = _nowhere
    is_down: Callable[[str], bool] = _lives
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
    #: Workflow function -> its calls; see :class:`orchestrator.core.workflows.run_calls.CallList`.
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
        if "expanded" in outcome and expand(self, step, outcome):
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

        Also returns the result: ``done``; ``not failed``; ``replayed`` if a letter of it is out (see
        :func:`~orchestrator.core.workflows.run_calls.has_letter_out`); ``others
        began`` on its failure; and if its run does not go on any more ``run cancelled``, ``run completed`` or ``run
        compensated``.
        """
        self._open()
        was = self.states.get(step, "")[:1]
        if was not in FAILED:
            return "not failed", Effects()
        if has_letter_out(self, step):
            return "replayed", Effects()
        if self.state not in (RunState.RUNNING, *STOPPED):
            return NO_RETRY.get(self.state, "run compensated"), Effects()
        if CALLER in self.plan[step].options:
            return ("done", self._close()) if retry_call(self, step, was) else ("others began", Effects())
        if self.plan[step].guarded:
            return "others began", Effects()
        retry(self, step, was)
        return "done", self._close()

    def compensate_failed(self) -> tuple[str, Effects]:
        """Compensate a failed run because its user wants it so.

        Also returns the result: ``done``; ``nothing to compensate``; ``not ended``; ``run cancelled``, ``run
        completed`` or ``run compensated``.
        """
        self._open()
        if self.state is not RunState.FAILED:
            if not self.has_ended and self.state is not RunState.COMPENSATING:
                return "not ended", Effects()
            return NO_RETRY.get(self.state, "run compensated"), Effects()
        if not self.undo:
            return "nothing to compensate", Effects()
        reopen(self, RunState.COMPENSATING)
        return "done", self._close()

    def why_not_replayed(self, step: str) -> str:
        """Why a dead letter of a step is not replayed; empty if it may be.

        ``run ended`` if the compensation of its run has begun, of which it is no part; ``step goes on`` if it has begun
        again or is about to, or another letter is out (see
        :func:`~orchestrator.core.workflows.run_calls.has_letter_out`): of two messages the one that ends first would be
        the step's outcome.
        """
        return why_not_replayed(self, step)

    def happened(self, event: str, payload: Any) -> Effects:
        """An event has come: for steps that wait for it now, and for those that will. The first one counts."""
        self._open()
        if event not in self.events:
            self.events[event] = payload
            self._plan_work("e", event)
        return self._close()

    def place_again(self, *, is_down: bool) -> Effects:
        """Place unplaced steps again; if an agent ``is_down``, also those that it was to get and has not begun."""
        self._open()
        if is_down:
            self._plan_work("a")
        self.agenda.append(("n", "", len(self.unplaced)))
        return self._close()

    def time_came(self, step: str) -> Effects:
        """The time of a wait has come: a wait for a time is handled; a wait for an event is dead, for none came.

        An unplaced step is dead, for no agent came.
        """
        self._open()
        time_came(self, step)
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
            begin_wait(self, step)

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
                fail_expansion(self, plan)
            if plan.when is When.ANY_HANDLED and not plan.guarded:
                self._failed()
            else:
                self._plan_work("d", step)

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

    def _taken_back(self, step: str, *, cancelled: bool) -> None:
        self.counts["open"] -= 1
        if cancelled:
            self._cancelled(step)
        elif step.startswith("u"):
            del self.states[step]
            self.undo.append(step[1:])
        else:
            self._park(step)

    def _leave_deployment(self, step: str) -> None:
        """A step is not dead by the deployment any more, if it was."""
        self.counts["deploy_failures"] -= self.states[step] == DEAD_BY_DEPLOYMENT

    def _forget_outcome(self, step: str, was: str) -> None:
        self._leave_deployment(step)
        self.counts[ENDED[was]] -= 1
        del self.states[step]
        self.outcomes.pop(step, None)

    def _ended(self, step: str, outcome: str, reason: str | None = None) -> None:
        """A step has ended; ``outcome`` is one of ``handled``, ``dead``, ``expired`` and ``cancelled``."""
        state = self.states.get(step, "")
        was = state[:1]
        if was in ENDED:
            ended_again(self, step, state, outcome, reason)
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
            fail_expansion(self, self.plan[step])
            if outcome == "dead":
                call_errbacks(self, step)
        if "." in step:
            item_ended(self, number_of(step), handled)
        elif "of" in self.plan[step].options:
            expansion_ended(self, self.plan[step].options["of"])
        elif CALLER in self.plan[step].options:
            call_ended(self, self.plan[step].options[CALLER])
        elif handled or self.plan[step].guarded:
            if self.plan[step].dependents:
                self._plan_work("d", step)
        else:
            self._failed()

    def _work_off(self) -> None:
        while self._left > 0 and self.agenda:
            kind, step, at = self.agenda.popleft()
            left: int | None = None
            if kind == "d":
                left = self._resolve_dependents(step, at)
            elif kind == "e":
                left = event_came(self, step, at)
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

    def _close(self) -> Effects:
        while True:
            self._work_off()
            if self.agenda or self.counts["open"] > 0 or not end_or_undo(self):
                effects, self._effects = self._effects, Effects()
                effects.is_left = bool(self.agenda)
                return effects


def outcome_json(outcome: Mapping[str, Any]) -> str:
    """An outcome as it is kept in a run."""
    return json.dumps(outcome, separators=(",", ":"))
