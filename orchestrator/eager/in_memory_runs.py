"""Runs of workflows in eager mode: the same rule, with each step handled inline."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.cancelled_step import CancelledStep
from orchestrator.core.errors import InvalidExpansion, RunEnded, StepGoesOn, WorkflowExists
from orchestrator.core.expansion import Expanded, steps_in_place
from orchestrator.core.message import encode
from orchestrator.core.outcome import Dead, Handled, Outcome, Reason, to_wire
from orchestrator.core.placement import least_loaded
from orchestrator.core.run import Run
from orchestrator.core.run_calls import CallList, Suspended
from orchestrator.core.run_state import RunState
from orchestrator.core.supervision import Supervision
from orchestrator.core.workflow_plan import Kind, StepPlan, number_of
from orchestrator.eager.backend import EagerBackend
from orchestrator.sending.address import Directory
from orchestrator.sending.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events
from orchestrator.workflows.cancelled_steps import message_to
from orchestrator.workflows.check import MAX_STEPS
from orchestrator.workflows.compiler import CompiledStep, CompiledWorkflow
from orchestrator.workflows.definition import LimitStrategy
from orchestrator.workflows.expansion import Compile, NewSteps, compiled_expansion
from orchestrator.workflows.fork import counts_of, kept_states, kept_steps, to_resolve
from orchestrator.workflows.function_calls import NewCalls, compiled_calls
from orchestrator.workflows.function_history import History, history_of
from orchestrator.workflows.placement import Placement
from orchestrator.workflows.records import RunDetails, RunStatus, failed_undos, status_from, step_records, undo_records
from orchestrator.workflows.step_arguments import ItemCount, Outcomes, fill, final_result, outcome_in_run, run_gone


@dataclass(slots=True)
class _Kept:
    id: str
    compiled: CompiledWorkflow
    rule: Run
    started_ms: int
    ended_ms: int = 0
    because: str = ""
    paused_with_workflow: bool = False
    #: Steps to be sent; a step may end, and release others, while another one is sent.
    to_send: deque[str] = field(default_factory=deque)
    is_sending: bool = False
    #: Steps that had ended before it began; in a fork.
    ended_before: tuple[str, ...] = ()
    #: The compiled steps by their numbers; the next number that none has had.
    steps: dict[str, CompiledStep] = field(default_factory=dict)
    next_number: int = 0
    #: Agent -> steps that are to be sent to it, and only said what they need.
    loads: Counter[str] = field(default_factory=Counter)
    #: Steps that run, whose agents are to learn that they are cancelled.
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = self.steps or {str(number): step for number, step in enumerate(self.compiled.steps)}
        self.next_number = self.next_number or len(self.steps)

    def place(self, step: str) -> int | None:
        """The place of the candidate that gets a step: the one with the fewest steps to be sent. All of them live."""
        agents = [one.supervision.agent for one in self._placement_of(step).candidates]
        place = least_loaded([self.loads[agent] for agent in agents])
        if place is not None:
            self.loads[agents[place]] += 1
        return place

    def left(self, step: str) -> None:
        """A step that was to be sent is not any more."""
        if step in self.rule.placed:
            self.loads[self._placement_of(step).candidates[self.rule.placed[step]].supervision.agent] -= 1

    def _placement_of(self, step: str) -> Placement:
        compiled = self.steps[number_of(step).removeprefix("u")]
        placement = compiled.undo_placement if step.startswith("u") else compiled.placement
        assert placement is not None  # noqa: S101 - it is asked of steps with needs only
        return placement

    def message(self, step: str) -> OutgoingMessage:
        """A step's message, or that of a compensation."""
        compiled = self.steps[number_of(step).removeprefix("u")]
        message = compiled.undo if step.startswith("u") else compiled.message
        if message is None:
            placement = self._placement_of(step)
            message = placement.candidates[self.rule.placed[step]]
            return replace(message, args=[placement.values])
        return message

    def take_back(self, step: str, cancelled: bool) -> bool:
        """Take back a step that is to be sent, and say whether it could: one that runs is noted if it is cancelled."""
        if step not in self.to_send:
            self.cancelled += [step] if cancelled else []
            return False
        self.to_send.remove(step)
        self.left(step)
        return True

    def add_steps(self, count: int, steps: Sequence[CompiledStep], plans: Mapping[str, StepPlan]) -> None:
        """Add steps that a handler has returned or called."""
        new = {str(self.next_number + place): step for place, step in enumerate(steps)}
        self.steps |= new
        self.next_number += count
        self.rule.add_steps({**_plans(new), **plans})


class InMemoryRuns:
    """See :class:`orchestrator.workflows.records.RunsBackend`. Pauses end at once; events are posted."""

    def __init__(self, backend: EagerBackend, directory: Directory, result_limit_bytes: int) -> None:
        self.result_limit_bytes = result_limit_bytes
        self._backend = backend
        self._directory = directory
        self._runs: dict[str, _Kept] = {}
        self._by_id: dict[str, str] = {}
        self._paused: set[str] = set()
        #: Key of a limit -> the runs that are out, the oldest first.
        self._running: dict[str, list[str]] = {}
        backend.on_outcome(self._step_ended)
        backend.before_replay(self._check_replay)

    def start(
        self, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None, *, is_new: bool = False
    ) -> str:
        """Start a run, and handle what it can without an event, before this returns. It never meets its deadline."""
        known = self._by_id.get(workflow_id)
        if known is not None:
            if self._runs[known].compiled.fingerprint != compiled.fingerprint:
                raise WorkflowExists(workflow_id)
            return known
        plan = _plans({str(number): step for number, step in enumerate(compiled.steps)})
        return self._begin(_Kept(workflow_id, compiled, Run(plan, compiled.on_failure), _now_ms()))

    def _begin(self, kept: _Kept, ended: Sequence[str] = ()) -> str:
        uid, name = secrets.token_hex(8), kept.compiled.name
        kept.rule.take_back, kept.rule.place = kept.take_back, kept.place
        self._runs[uid], self._by_id[kept.id] = kept, uid
        emit(events.WORKFLOW_STARTED, workflow=name, id=kept.id, uid=uid)
        if name in self._paused:
            kept.rule.paused = kept.paused_with_workflow = True
        kept.ended_before = tuple(ended)
        if self._enter_limit(uid, kept):
            self._apply(uid, kept, kept.rule.start(ended))
        return uid

    def expand(self, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]) -> Expanded | None:
        """Add the steps that are to take the place of one to its run's plan."""
        kept = self._runs.get(str(run["uid"]))
        owner = str(run["step"])
        if kept is None or kept.rule.state not in (RunState.RUNNING, RunState.STOPPING, RunState.FAILED):
            return None
        first = kept.next_number
        if first + new.count > MAX_STEPS:
            raise InvalidExpansion([f"its run would have {first + new.count} steps; allowed: {MAX_STEPS}"])
        replaced = kept.rule.plan[number_of(owner)]
        made = compiled_expansion(compile_steps, new, owner, replaced.name, replaced, first)
        kept.add_steps(new.count, made.steps, made.plans)
        return made.expanded

    def history(self, run: Mapping[str, Any]) -> History:
        """What a workflow function has asked for so far."""
        uid = str(run["uid"])
        if uid not in self._runs:
            raise run_gone(run)
        outcomes, item_count = self._readers(uid)
        calls = CallList.from_text(self._runs[uid].rule.calls.get(str(run["step"])))

        def read(numbers: Sequence[str]) -> list[Any]:
            # The function may change the results that it gets.
            return deepcopy(outcomes(numbers))

        return history_of(run, calls, read, read, item_count)

    def suspend(self, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]) -> Suspended:
        """Add the calls that a workflow function makes to its run's plan."""
        kept, caller, count = self._runs.get(str(run["uid"])), str(run["step"]), len(calls.definitions)
        if kept is None:
            return Suspended(0, count, calls.after)
        first = kept.next_number
        if first + count > MAX_STEPS:
            raise InvalidExpansion([f"its run would have {first + count} steps; allowed: {MAX_STEPS}"])
        made = compiled_calls(compile_steps, calls, caller, kept.rule.plan[number_of(caller)].name, first)
        kept.add_steps(count, made.steps, made.plans)
        return made.suspended

    def _enter_limit(self, uid: str, kept: _Kept) -> bool:
        """Whether a run begins now; if not it is queued, or cancelled."""
        limit = kept.compiled.limit
        if limit is None:
            return True
        running = self._running.setdefault(limit.key or kept.compiled.name, [])
        while len(running) >= limit.running:
            if limit.strategy == LimitStrategy.QUEUE:
                kept.rule.state = RunState.QUEUED
                return False
            if limit.strategy == LimitStrategy.CANCEL_NEWEST:
                kept.because = "limit reached"
                self.control(uid, "cancel", "0")
                return False
            oldest = running.pop(0)
            self._runs[oldest].because = "a newer run began"
            self.control(oldest, "cancel", "1" if self._runs[oldest].rule.on_failure == "compensate" else "0")
        running.append(uid)
        return True

    def _leave_limit(self, uid: str, kept: _Kept) -> None:
        limit = kept.compiled.limit
        key = "" if limit is None else limit.key or kept.compiled.name
        running = self._running.get(key, [])
        if limit is None or uid not in running:
            return
        running.remove(uid)
        for other, queued in list(self._runs.items()):
            same = queued.compiled.limit is not None and (queued.compiled.limit.key or queued.compiled.name) == key
            if same and queued.rule.state is RunState.QUEUED and len(running) < limit.running:
                running.append(other)
                queued.rule.state = RunState.RUNNING
                self._apply(other, queued, queued.rule.start(queued.ended_before))

    def fork(self, uid: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        """Start a run that has the outcomes of another one but for what is downstream of a step."""
        if workflow_id in self._by_id:
            raise WorkflowExists(workflow_id)
        kept = self._runs[uid]
        old, compiled = kept.rule, kept.compiled
        numbers = kept_steps(old.plan, old.states, after, len(compiled.steps))
        rule = Run(old.plan, compiled.on_failure, states=kept_states(old.states, numbers), roots=old.roots)
        rule.counts.update(counts_of(rule.states))
        rule.outcomes = {step: outcome for step, outcome in old.outcomes.items() if step in rule.states}
        rule.maps = {step: list(values) for step, values in old.maps.items() if step in rule.states}
        rule.calls = {step: calls for step, calls in old.calls.items() if step in rule.states}
        fork = _Kept(workflow_id, compiled, rule, _now_ms(), steps=dict(kept.steps), next_number=kept.next_number)
        return self._begin(fork, to_resolve(old.plan, numbers))

    def uid_of(self, workflow_id: str) -> str | None:
        """The uid of a run."""
        return self._by_id.get(workflow_id)

    def status(self, uid: str) -> RunStatus | None:
        """A run as it is now."""
        kept = self._runs.get(uid)
        if kept is None:
            return None
        fields: dict[str, Any] = {
            **kept.rule.counts,
            "id": kept.id,
            "name": kept.compiled.name,
            "state": kept.rule.state,
            "paused": "1" if kept.rule.paused else "",
            "total": len(kept.compiled.steps)
            + sum(map(len, steps_in_place(kept.rule.plan, kept.rule.states).values())),
            "because": kept.because,
            "started_ms": kept.started_ms,
            "ended_ms": kept.ended_ms,
        }
        return status_from(uid, fields)

    def details(self, uid: str) -> RunDetails | None:
        """A run with its steps."""
        status = self.status(uid)
        if status is None:
            return None
        rule, declared = self._runs[uid].rule, len(self._runs[uid].compiled.steps)
        states = {step: self._state(rule, step) for step in rule.states}
        candidates = {
            number: [one.supervision.agent for one in step.placement.candidates]
            for number, step in self._runs[uid].steps.items()
            if step.placement is not None
        }
        steps = step_records(rule.plan, states, rule.maps, declared, candidates)
        owed = rule.undo if rule.state is RunState.COMPENSATING else ()
        outcomes = {step: self.outcome(uid, step) for step in failed_undos(states)}
        undos = undo_records(rule.plan, states, owed, outcomes)
        return RunDetails(status, steps, tuple(sorted(rule.events)), undos)

    def _state(self, rule: Run, step: str) -> str:
        """The state of a step as Redis has it."""
        state = rule.states[step]
        return f"s,{rule.placed[step] + 1}" if state == "s" and step in rule.placed else state

    def outcome(self, uid: str, number: str) -> Outcome | None:
        """The outcome of a step or an item."""
        outcome = self._runs[uid].rule.outcomes.get(number)
        return None if outcome is None else outcome_in_run(outcome, *self._readers(uid))

    def item_count(self, uid: str, number: str) -> int:
        """The number of items of a map."""
        return self._runs[uid].rule.maps.get(number, [0, 0, 0, 0])[2]

    def final(self, uid: str) -> Any:
        """What a run results in."""
        return final_result(self._runs[uid].compiled.final, *self._readers(uid))

    def numbers(self, uid: str) -> Mapping[str, tuple[str, bool]]:
        """The number of each step by its name, and whether it is a map."""
        steps = enumerate(self._runs[uid].compiled.steps)
        return {step.plan.name: (str(number), step.plan.kind is Kind.MAP) for number, step in steps}

    def control(self, uid: str, action: str, value: str = "", payload: str = "") -> str:
        """Act on a run, as ``control_run.lua`` does."""
        kept = self._runs.get(uid)
        if kept is None:
            return "unknown"
        names: dict[str, Any] = {"workflow": kept.compiled.name, "id": kept.id, "uid": uid}
        rule = kept.rule
        if action == "retry":
            said, effects = rule.retry(value)
            self._apply(uid, kept, effects)
            return said
        if kept.ended_ms:
            return "too late"
        match action:
            case "pause":
                if rule.paused:
                    return "paused already"
                kept.paused_with_workflow = value == "workflow"
                emit(events.WORKFLOW_PAUSED, **names)
                self._apply(uid, kept, rule.pause())
            case "resume":
                if not rule.paused or (value == "workflow" and not kept.paused_with_workflow):
                    return "not paused"
                emit(events.WORKFLOW_RESUMED, **names)
                self._apply(uid, kept, rule.resume())
            case "cancel":
                if rule.state is RunState.CANCELLED:
                    return "cancelled already"
                if rule.state is RunState.COMPENSATING:
                    return "too late"
                emit(events.WORKFLOW_CANCELLED, **names)
                kept.because = "cancelled" if value == "1" and rule.undo else kept.because
                self._apply(uid, kept, rule.cancel(compensate=value == "1"))
                self._call_on_cancelled(uid, kept)
            case "post":
                self._apply(uid, kept, rule.happened(value, json.loads(payload)))
            case _:
                self._apply(uid, kept, rule.time_came(value))
        return "done"

    def _call_on_cancelled(self, uid: str, kept: _Kept) -> None:
        """Send the agents of steps that run and are cancelled the message for their method ``on_cancelled``."""
        while kept.cancelled:
            step = kept.cancelled.pop(0)
            of = kept.message(step).supervision
            message = message_to(self._directory, of.agent) if of.agent else None
            if message is None:
                continue
            _, _, item = step.partition(".")
            fields = CancelledStep(
                id=f"{uid}.{step}",
                message=of.message,
                workflow_id=kept.id,
                uid=uid,
                workflow=kept.compiled.name,
                step=kept.steps[number_of(step)].plan.name + (f"[{item}]" if item else ""),
                because=kept.because,
            )
            self._backend.send(replace(message, id=f"cancelled-{uid}.{step}", args=[encode(fields)]))

    def delete(self, uid: str, *, force: bool = False) -> str:
        """Forget a run that has ended, or with ``force`` goes on."""
        kept = self._runs.get(uid)
        if kept is None:
            return "unknown"
        if not kept.ended_ms and not force:
            return "not ended"
        if not kept.ended_ms:
            self._leave_limit(uid, kept)
        del self._runs[uid]
        if self._by_id.get(kept.id) == uid:
            del self._by_id[kept.id]
        return "done"

    def set_paused(self, name: str, *, paused: bool) -> bool:
        """Have new runs of a workflow start paused, or not; whether that was changed."""
        was = name in self._paused
        (self._paused.add if paused else self._paused.discard)(name)
        return was is not paused

    def wait(self, uid: str, timeout_s: float) -> bool:
        """Whether a run has ended; without an event it does not go on."""
        kept = self._runs.get(uid)
        return kept is not None and kept.ended_ms > 0

    def uids(self) -> Iterator[str]:
        """All runs, the newest first."""
        return reversed(list(self._runs))

    def _apply(self, uid: str, kept: _Kept, effects: Any) -> None:
        rule = kept.rule
        kept.to_send.extend(effects.send)
        if effects.revived:
            kept.ended_ms = 0
            emit(events.WORKFLOW_REVIVED, workflow=kept.compiled.name, id=kept.id, uid=uid)
        if effects.ended is not None:
            kept.ended_ms = _now_ms()
            took = {"duration_s": (kept.ended_ms - kept.started_ms) / 1000}
            name, state = kept.compiled.name, rule.state.value
            emit(events.WORKFLOW_ENDED, took, workflow=name, id=kept.id, uid=uid, state=state)
            if rule.state in (RunState.COMPENSATED, RunState.COMPENSATION_FAILED):
                kept.because = kept.because or "failed"
            self._leave_limit(uid, kept)
        for step, _ms in effects.timers:
            if "event" not in rule.plan[number_of(step)].options:
                self._apply(uid, kept, rule.time_came(step))
        if kept.is_sending:
            return
        kept.is_sending = True
        raised: list[Exception] = []
        try:
            while kept.to_send:
                step = kept.to_send.popleft()
                kept.left(step)
                if rule.states.get(step) == "s":
                    raised += self._send(uid, kept, step)
        finally:
            kept.is_sending = False
        if raised:
            # With Celery's setting task_eager_propagates, once the run can go on no more.
            raise raised[0]

    def _send(self, uid: str, kept: _Kept, step: str) -> list[Exception]:
        """Handle a step; returns what its last attempt has raised, if that is the run's failure and to be raised."""
        rule, message = kept.rule, self._message(uid, kept, step)
        try:
            sent = self._backend.send(message)
        except Exception as error:
            if rule.states.get(step) == "s":
                # It was not accepted.
                raise
            is_provided_for = rule.plan[number_of(step).removeprefix("u")].guarded or "." in step
            return [] if is_provided_for else [error]
        if not sent.published:
            why = f"the class of {message.task} publishes nothing now; allowed for a step: a task whose class does"
            outcome = {"outcome": "dead", "reason": Reason.UNSUPERVISED.value, "error": why, "attempts": 0}
            self._apply(uid, kept, rule.step_ended(step, outcome))
        return []

    def _message(self, uid: str, kept: _Kept, step: str) -> OutgoingMessage:
        compiled = kept.steps[number_of(step).removeprefix("u")]
        message = kept.message(step)
        has_references = compiled.undo_has_references if step.startswith("u") else compiled.has_references
        name = compiled.plan.name + (".undo" if step.startswith("u") else "")
        run = {"uid": uid, "id": kept.id, "step": step, "name": name}
        if has_references:
            run["refs"] = "1"
        return replace(message, id=f"{uid}.{step}", supervision=replace(message.supervision, run=run))

    def fill(self, run: Mapping[str, Any], value: Any) -> Any:
        """Arguments of a step with its run's results in them.

        Raises:
            InvalidStepInput: a result has no such part, or the run is not kept any more.
        """
        uid = str(run["uid"])
        if uid not in self._runs:
            raise run_gone(run)
        return fill(value, str(run["step"]), *self._readers(uid), uid)

    def _readers(self, uid: str) -> tuple[Outcomes, ItemCount]:
        rule = self._runs[uid].rule

        def outcomes(numbers: Sequence[str]) -> list[Any]:
            return [rule.outcomes.get(number) for number in numbers]

        return outcomes, lambda number: rule.maps.get(number, [0, 0, 0, 0])[2]

    def _check_replay(self, queue: str, supervision: Supervision) -> None:
        run = supervision.run
        kept = None if run is None else self._runs.get(str(run["uid"]))
        if run is None or kept is None:
            return
        why = kept.rule.why_not_replayed(str(run["step"]))
        if why:
            raise RunEnded(queue) if why == "run ended" else StepGoesOn(queue)

    def _step_ended(self, supervision: Supervision, outcome: Outcome) -> None:
        run = supervision.run
        kept = None if run is None else self._runs.get(str(run["uid"]))
        if run is None or kept is None:
            return
        wire = to_wire(outcome)
        if isinstance(outcome, Dead):
            wire["letter_id"] = outcome.letter_id
        if isinstance(outcome, Handled) and isinstance(outcome.result, Expanded | Suspended):
            wire |= {"result": None, outcome.result.FIELD: outcome.result.to_wire()}
        self._apply(str(run["uid"]), kept, kept.rule.step_ended(str(run["step"]), wire))


def _plans(steps: Mapping[str, CompiledStep]) -> dict[str, StepPlan]:
    """The plans of steps by their numbers, with those of compensations that say what they need."""
    plans = {number: step.plan for number, step in steps.items()}
    for number, step in steps.items():
        if step.undo_placement is not None:
            plans[f"u{number}"] = StepPlan(f"{step.plan.name}.undo", options=step.undo_placement.plan_options)
    return plans


def _now_ms() -> int:
    return round(time.time() * 1000)
