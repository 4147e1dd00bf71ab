"""Runs of workflows in eager mode: the same rule, with each step handled inline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from orchestrator.core.clock import now_ms, to_ms
from orchestrator.core.deliveries.outcome import Dead, Handled, Outcome, to_wire
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import InvalidExpansion, RunEnded, StepGoesOn, WorkflowExists
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.plan import Kind, number_of
from orchestrator.core.workflows.run import Run
from orchestrator.core.workflows.run_calls import CallList, Suspended
from orchestrator.core.workflows.run_state import RunState
from orchestrator.eager.backend import EagerBackend
from orchestrator.eager.in_memory_run import InMemoryRun, plans_of
from orchestrator.eager.run_execution import RunExecution
from orchestrator.eager.run_records import details_of, outcome_of, readers, status_of
from orchestrator.sending.address import Directory
from orchestrator.telemetry import emit, events
from orchestrator.workflows.compiling.check import MAX_STEPS
from orchestrator.workflows.compiling.compiler import CompiledWorkflow
from orchestrator.workflows.compiling.expansion import Compile, NewSteps, compiled_expansion
from orchestrator.workflows.fork import ANOTHER_FORK, ForkOrigin, counts_of, kept_states, kept_steps, to_resolve
from orchestrator.workflows.functions.calls import NewCalls, compiled_calls
from orchestrator.workflows.functions.history import History, history_of
from orchestrator.workflows.records import RunDetails, RunStatus
from orchestrator.workflows.steps.arguments import fill, final_result, run_gone


class InMemoryRuns:
    """Starts, reads and acts on runs, and serves their steps: see :mod:`orchestrator.workflows.backend`."""

    def __init__(self, backend: EagerBackend, directory: Directory) -> None:
        self._runs: dict[str, InMemoryRun] = {}
        self._by_id: dict[str, InMemoryRun] = {}
        self._paused: set[str] = set()
        self._execution = RunExecution(backend, directory, lambda: list(self._runs.values()))
        backend.runner.on_outcome.append(self._step_ended)
        backend.replays.checks.append(self._check_replay)

    def start(
        self, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None, *, is_new: bool = False
    ) -> str:
        """Start a run, and handle what it can without an event, before this returns. It never meets its deadline."""
        known = self._by_id.get(workflow_id)
        if known is not None:
            if known.compiled.fingerprint != compiled.fingerprint:
                raise WorkflowExists(workflow_id)
            return known.uid
        plan = plans_of({str(number): step for number, step in enumerate(compiled.steps)})
        return self._begin(InMemoryRun(workflow_id, compiled, Run(plan, compiled.on_failure), now_ms()))

    def fork(self, uid: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        """Start a run that has the outcomes of another one but for what is downstream of a step."""
        fork_of = ForkOrigin(uid, after, None if deadline_s is None else to_ms(deadline_s))
        if (known := self._by_id.get(workflow_id)) is not None:
            if known.fork_of != fork_of:
                raise WorkflowExists(workflow_id, ANOTHER_FORK)
            return known.uid
        origin = self._runs[uid]
        old, compiled = origin.rule, origin.compiled
        numbers = kept_steps(old.plan, old.states, after, len(compiled.steps))
        rule = Run(old.plan, compiled.on_failure, states=kept_states(old.states, numbers), roots=old.roots)
        rule.counts.update(counts_of(rule.states))
        rule.outcomes = {step: outcome for step, outcome in old.outcomes.items() if step in rule.states}
        rule.maps = {step: list(values) for step, values in old.maps.items() if step in rule.states}
        rule.calls = {step: calls for step, calls in old.calls.items() if step in rule.states}
        fork = InMemoryRun(
            workflow_id,
            compiled,
            rule,
            now_ms(),
            ended_before=tuple(to_resolve(old.plan, numbers)),
            steps=dict(origin.steps),
            next_number=origin.next_number,
            fork_of=fork_of,
        )
        return self._begin(fork)

    def _begin(self, run: InMemoryRun) -> str:
        name = run.compiled.name
        self._runs[run.uid] = self._by_id[run.id] = run
        emit(events.WORKFLOW_STARTED, workflow=name, id=run.id, uid=run.uid)
        if name in self._paused:
            run.rule.paused = run.paused_with_workflow = True
        self._execution.begin(run)
        return run.uid

    def expand(self, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]) -> Expanded | None:
        """Add the steps that are to take the place of one to its run's plan."""
        known = self._run_of(run)
        owner = str(run["step"])
        if known is None or known.rule.state not in (RunState.RUNNING, RunState.STOPPING, RunState.FAILED):
            return None
        first = _first_of(known, new.count)
        replaced = known.rule.plan[number_of(owner)]
        made = compiled_expansion(compile_steps, new, owner, replaced.name, replaced, first)
        known.add_steps(new.count, made.steps, made.plans)
        return made.expanded

    def history(self, run: Mapping[str, Any]) -> History:
        """The history of a workflow function."""
        known = self._run_of(run)
        if known is None:
            raise run_gone(run)
        outcomes, item_count = readers(known)
        calls = CallList.from_text(known.rule.calls.get(str(run["step"])))

        def read(numbers: Sequence[str]) -> list[Any]:
            # The function may change the results that it gets.
            return deepcopy(outcomes(numbers))

        return history_of(run, calls, read, read, item_count)

    def suspend(self, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]) -> Suspended:
        """Add the calls that a workflow function makes to its run's plan."""
        known, caller, count = self._run_of(run), str(run["step"]), len(calls.definitions)
        if known is None:
            return Suspended(0, count, calls.after)
        first = _first_of(known, count)
        made = compiled_calls(compile_steps, calls, caller, known.rule.plan[number_of(caller)].name, first)
        known.add_steps(count, made.steps, made.plans)
        return made.suspended

    def fill(self, run: Mapping[str, Any], value: Any) -> Any:
        """Arguments of a step with its run's results in them.

        Raises:
            InvalidStepInput: a result has no such part, or the run is not kept any more.
        """
        known = self._run_of(run)
        if known is None:
            raise run_gone(run)
        return fill(value, str(run["step"]), *readers(known), known.uid)

    def uid_of(self, workflow_id: str) -> str | None:
        """The uid of a run."""
        known = self._by_id.get(workflow_id)
        return None if known is None else known.uid

    def status(self, uid: str) -> RunStatus | None:
        """A run as it is now."""
        return status_of(self._runs[uid]) if uid in self._runs else None

    status_or_skip = status

    def details(self, uid: str) -> RunDetails | None:
        """A run with its steps."""
        return details_of(self._runs[uid]) if uid in self._runs else None

    def outcome(self, uid: str, number: str) -> Outcome | None:
        """The outcome of a step or an item."""
        return outcome_of(self._runs[uid], number)

    def item_count(self, uid: str, number: str) -> int:
        """The number of items of a map."""
        _, item_count = readers(self._runs[uid])
        return item_count(number)

    def final(self, uid: str) -> Any:
        """The result of a run."""
        run = self._runs[uid]
        return final_result(run.compiled.final, *readers(run))

    def numbers(self, uid: str) -> Mapping[str, tuple[str, bool]]:
        """The number of each step by its name, and whether it is a map."""
        steps = enumerate(self._runs[uid].compiled.steps)
        return {step.plan.name: (str(number), step.plan.kind is Kind.MAP) for number, step in steps}

    def wait(self, uid: str, timeout_s: float) -> bool:
        """Whether a run has ended; without an event it does not go on."""
        run = self._runs.get(uid)
        return run is not None and run.ended_ms > 0

    def uids(self) -> Iterator[str]:
        """All runs, the newest first."""
        return reversed(list(self._runs))

    def control(self, uid: str, action: str, value: str = "", payload: str = "") -> str:
        """Act on a run, as ``control_run.lua`` does."""
        run = self._runs.get(uid)
        if run is None:
            return "unknown"
        names: dict[str, Any] = {"workflow": run.compiled.name, "id": run.id, "uid": uid}
        rule, apply = run.rule, self._execution.apply
        if action == "retry":
            said, effects = rule.retry(value)
            apply(run, effects)
            return said
        if action == "compensate":
            said, effects = rule.compensate_failed()
            apply(run, effects)
            return said
        if run.ended_ms:
            return "too late"
        match action:
            case "pause":
                if rule.paused:
                    return "paused already"
                run.paused_with_workflow = value == "workflow"
                emit(events.WORKFLOW_PAUSED, **names)
                apply(run, rule.pause())
            case "resume":
                if not rule.paused or (value == "workflow" and not run.paused_with_workflow):
                    return "not paused"
                emit(events.WORKFLOW_RESUMED, **names)
                apply(run, rule.resume())
            case "cancel":
                return self._execution.cancel(run, value == "1")
            case "post":
                apply(run, rule.happened(value, json.loads(payload)))
            case _:
                apply(run, rule.time_came(value))
        return "done"

    def delete(self, uid: str, *, force: bool = False) -> str:
        """Forget a run that has ended, or with ``force`` goes on."""
        run = self._runs.get(uid)
        if run is None:
            return "unknown"
        if not run.ended_ms and not force:
            return "not ended"
        if not run.ended_ms:
            self._execution.leave_limit(run)
        del self._runs[uid]
        if self._by_id.get(run.id) is run:
            del self._by_id[run.id]
        return "done"

    def set_paused(self, name: str, *, paused: bool) -> bool:
        """Have new runs of a workflow start paused, or not; whether that was changed."""
        was = name in self._paused
        (self._paused.add if paused else self._paused.discard)(name)
        return was is not paused

    def _run_of(self, header: Mapping[str, Any]) -> InMemoryRun | None:
        return self._runs.get(str(header["uid"]))

    def _check_replay(self, queue: str, supervision: Supervision) -> None:
        run = supervision.run
        known = None if run is None else self._run_of(run)
        if run is None or known is None:
            return
        why = known.rule.why_not_replayed(str(run["step"]))
        if why:
            raise RunEnded(queue) if why == "run ended" else StepGoesOn(queue)

    def _step_ended(self, supervision: Supervision, outcome: Outcome) -> None:
        run = supervision.run
        known = None if run is None else self._run_of(run)
        if run is None or known is None:
            return
        wire = to_wire(outcome)
        if isinstance(outcome, Dead):
            wire["letter_id"] = outcome.letter_id
        if isinstance(outcome, Handled) and isinstance(outcome.result, Expanded | Suspended):
            wire |= {"result": None, outcome.result.FIELD: outcome.result.to_wire()}
        self._execution.apply(known, known.rule.step_ended(str(run["step"]), wire))


def _first_of(run: InMemoryRun, count: int) -> int:
    """The number of the first of new steps.

    Raises:
        InvalidExpansion: with them the run has too many.
    """
    if run.next_number + count > MAX_STEPS:
        raise InvalidExpansion([f"its run would have {run.next_number + count} steps; allowed: {MAX_STEPS}"])
    return run.next_number
