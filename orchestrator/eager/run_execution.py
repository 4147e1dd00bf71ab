"""Executes runs of workflows in eager mode: sends the steps that the rule releases; each ends inline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.clock import now_ms
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.message import encode
from orchestrator.core.workflows.cancelled_step import CancelledStep
from orchestrator.core.workflows.plan import number_of
from orchestrator.core.workflows.run_state import Effects, RunState
from orchestrator.eager.backend import EagerBackend
from orchestrator.eager.in_memory_run import InMemoryRun
from orchestrator.eager.run_limits import RunLimits
from orchestrator.sending.address import Directory
from orchestrator.telemetry import emit, events
from orchestrator.workflows.steps.cancelled_steps import message_to


class RunExecution:
    """Begins runs, and applies the effects that their rule returns."""

    def __init__(
        self, backend: EagerBackend, directory: Directory, all_runs: Callable[[], Sequence[InMemoryRun]]
    ) -> None:
        self._backend = backend
        self._directory = directory
        self._all_runs = all_runs
        self._limits = RunLimits(self.cancel)

    def begin(self, run: InMemoryRun) -> None:
        """Begin a run, unless its limit queues it."""
        if self._limits.enter(run):
            self._start(run)

    def _start(self, run: InMemoryRun) -> None:
        self.apply(run, run.rule.start(run.ended_before))

    def leave_limit(self, run: InMemoryRun) -> None:
        """Begin the queued runs that have room after a run has ended."""
        self._limits.leave(run, self._all_runs(), self._start)

    def cancel(self, run: InMemoryRun, compensate: bool) -> str:
        """Cancel a run that has not ended; returns ``done``, ``cancelled already`` or ``too late``."""
        rule = run.rule
        if rule.state is RunState.CANCELLED:
            return "cancelled already"
        if rule.state is RunState.COMPENSATING:
            return "too late"
        emit(events.WORKFLOW_CANCELLED, workflow=run.compiled.name, id=run.id, uid=run.uid)
        run.because = "cancelled" if compensate and rule.undo else run.because
        self.apply(run, rule.cancel(compensate=compensate))
        self._call_on_cancelled(run)
        return "done"

    def apply(self, run: InMemoryRun, effects: Effects) -> None:
        """Apply the effects that a run's rule returns, until no step is left to send."""
        rule = run.rule
        names: dict[str, Any] = {"workflow": run.compiled.name, "id": run.id, "uid": run.uid}
        run.to_send.extend(effects.send)
        if effects.revived:
            run.ended_ms = 0
            emit(events.WORKFLOW_REVIVED, **names)
        if effects.ended is not None:
            run.ended_ms = now_ms()
            took = {"duration_s": (run.ended_ms - run.started_ms) / 1000}
            emit(events.WORKFLOW_ENDED, took, **names, state=rule.state.value)
            if rule.state in (RunState.COMPENSATED, RunState.COMPENSATION_FAILED):
                run.because = run.because or "failed"
            self.leave_limit(run)
        for step, _ms in effects.timers:
            # Pauses end at once; what waits for an event waits without end.
            if "event" not in rule.plan[number_of(step)].options:
                self.apply(run, rule.time_came(step))
        if not run.is_sending:
            self._send_released(run)

    def _send_released(self, run: InMemoryRun) -> None:
        run.is_sending = True
        raised: list[Exception] = []
        try:
            while run.to_send:
                step = run.next_step()
                if run.rule.states.get(step) == "s":
                    raised += self._send(run, step)
        finally:
            run.is_sending = False
        if raised:
            # With Celery's setting task_eager_propagates, after the run cannot go on.
            raise raised[0]

    def _send(self, run: InMemoryRun, step: str) -> list[Exception]:
        # Returns the error of the step's last attempt, if the run fails with it and Celery is to raise it.
        rule, message = run.rule, run.message(step)
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
            self.apply(run, rule.step_ended(step, outcome))
        return []

    def _call_on_cancelled(self, run: InMemoryRun) -> None:
        # Sends the agents of cancelled steps that run the message for their method on_cancelled.
        while run.cancelled:
            step = run.cancelled.pop(0)
            supervision = run.message(step).supervision
            message = message_to(self._directory, supervision.agent) if supervision.agent else None
            if message is None:
                continue
            _, _, item = step.partition(".")
            fields = CancelledStep(
                id=f"{run.uid}.{step}",
                message=supervision.message,
                workflow_id=run.id,
                uid=run.uid,
                workflow=run.compiled.name,
                step=run.steps[number_of(step)].plan.name + (f"[{item}]" if item else ""),
                because=run.because,
            )
            self._backend.send(replace(message, id=f"cancelled-{run.uid}.{step}", args=[encode(fields)]))
