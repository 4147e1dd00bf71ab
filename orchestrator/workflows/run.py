"""A run of a workflow: what ``orchestrator.workflows.start`` returns."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from orchestrator.core.checks.choices import check_bool
from orchestrator.core.checks.text import is_text
from orchestrator.core.deliveries.outcome import Handled, Outcome
from orchestrator.core.errors import DeliveryTimeout, InvalidPolicy, SendFailed, UnknownWorkflow
from orchestrator.core.policies.effective import seconds
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.core.workflows.plan import Kind
from orchestrator.sending.calls.call import check_timeout
from orchestrator.workflows.backend import RunsBackend
from orchestrator.workflows.compiling.check import is_name
from orchestrator.workflows.explain import explain
from orchestrator.workflows.graph import graph_of
from orchestrator.workflows.records import ControlResult, RunDetails, RunStatus, StepRecord, StepState
from orchestrator.workflows.steps.arguments import NotHandled

_FAILED = frozenset({StepState.DEAD, StepState.EXPIRED, StepState.CANCELLED})


#: Longest id of a run.
_LONGEST_ID = 200


def check_id(workflow_id: str | None) -> str:
    """The id of a new run: the one that is given, or one that is made up.

    Raises:
        InvalidPolicy: it is not allowed.
    """
    known = workflow_id if workflow_id is not None else secrets.token_hex(8)
    if not is_text(known) or not 1 <= len(known) <= _LONGEST_ID:
        raise InvalidPolicy("workflow_id", workflow_id, f"a text of 1 to {_LONGEST_ID} characters")
    return known


@named_arguments
class Run:
    """A run. Its methods raise :class:`UnknownWorkflow` if it is not kept any more, and :class:`BrokerUnavailable`."""

    def __init__(self, uid: str, workflow_id: str, backend: Callable[[], RunsBackend]) -> None:
        #: The run's own id, which no other run ever has; deliveries of its steps are ``UID.NUMBER``.
        self.uid = uid
        #: What it was started with as ``workflow_id``, or a made-up one; ``workflows.get(id)`` finds it.
        self.id = workflow_id
        self._backend = backend

    def __repr__(self) -> str:
        return f"<Run {self.id!r} ({self.uid})>"

    def status(self) -> RunStatus:
        """The run as it is now."""
        status = self._backend().reads.status(self.uid)
        if status is None:
            raise UnknownWorkflow(self.id)
        return status

    def progress(self) -> float:
        """The share of its messages and other steps that have ended, from 0 to 1; a map counts by its items."""
        return self.details().progress

    def steps(self) -> tuple[StepRecord, ...]:
        """All steps, in the order of their declaration."""
        return self.details().steps

    def details(self) -> RunDetails:
        """The status and all steps, which are read one after the other: a run that goes on may change between."""
        details = self._backend().reads.details(self.uid)
        if details is None:
            raise UnknownWorkflow(self.id)
        return details

    def explain(self) -> list[str]:
        """A line on the run's state, one on each step that has not ended, and one on each event no step waits for.

        Once its compensation has begun also one on each ``undo``: its state, and if it has failed its error and letter.
        """
        return explain(self.details())

    def graph(self) -> dict[str, Any]:
        """The run as JSON data to be drawn: ``run``, ``steps``, ``edges`` and ``counts`` of steps by state."""
        return graph_of(self.details())

    def wait(self, timeout_s: float) -> RunStatus:
        """Wait for the end of the run.

        Raises:
            DeliveryTimeout: it has not ended in time; it goes on.
        """
        seconds = check_timeout(timeout_s)
        if not self._backend().reads.wait(self.uid, seconds):
            status = self.status()
            if not status.ended:
                text = f"run {self.id} has not ended after {seconds:g} s; it goes on"
                raise DeliveryTimeout(self.uid, seconds, text)
        return self.status()

    def outcome(self, step: str | StepRecord) -> Outcome | None:
        """The outcome of a step, by its name or its record; ``None`` if it has none yet.

        Raises:
            InvalidPolicy: there is no step of that name.
        """
        record = step if isinstance(step, StepRecord) else self._step(step)
        return self._backend().reads.outcome(self.uid, record.number)

    def result(self, step: str | None = None) -> Any:
        """The result of a step, by its name: of a map the list of its items' results. ``None`` if it was not handled.

        Without a name, what the workflow's ``final`` says: of a canvas, what its ``apply_async().get()`` returns.
        It is ``None`` if the workflow has no ``final``.

        Raises:
            InvalidPolicy: there is no step of that name.
            SendFailed: without a name, a step of it was not handled.
            DeliveryTimeout: without a name, a step of it has not ended.
        """
        if step is None:
            return self._final()
        reads, record = self._backend().reads, self._step(step)
        if record.plan is not None and record.plan.kind is Kind.MAP:
            count = reads.item_count(self.uid, record.number)
            return [_result(reads.outcome(self.uid, f"{record.number}.{item}")) for item in range(count)]
        return _result(reads.outcome(self.uid, record.number))

    def _final(self) -> Any:
        status = self.status()
        try:
            return self._backend().reads.final(self.uid)
        except NotHandled:
            if not status.ended:
                text = f"run {self.id} has no result yet; run.wait(timeout_s) waits for its end"
                raise DeliveryTimeout(self.uid, 0, text) from None
        # The step whose result is missing may have waited for another one that failed.
        for step in self.steps():
            if step.state in _FAILED:
                raise SendFailed(f"{self.uid}.{step.number}", self._backend().reads.outcome(self.uid, step.number))
        raise SendFailed(self.uid, status.state)

    def pause(self) -> ControlResult:
        """Begin no further step. What a worker has begun goes on; what none has begun is taken back."""
        return self._control("pause")

    def resume(self) -> ControlResult:
        """Go on after a pause."""
        return self._control("resume")

    def cancel(self, *, compensate: bool = False) -> ControlResult:
        """Begin nothing more. What no worker has begun is cancelled; what runs is not attempted again.

        With ``compensate``, the compensations of the handled steps are sent then, the last one first.

        Raises:
            InvalidPolicy: ``compensate`` is neither true nor false.
        """
        return self._control("cancel", "1" if check_bool("compensate", compensate) else "0")

    def compensate(self) -> ControlResult:
        """Send the compensations of the handled steps of a failed run, the last one first, whatever its ``on_failure``.

        For one that a failure of the deployment holds, or whose ``on_failure`` is ``"stop"`` or ``"continue"``. Its
        steps are not retried after that. It is too late in a run that was cancelled (``RUN_CANCELLED``), is completed
        (``RUN_COMPLETED``) or is or was compensated (``RUN_COMPENSATED``); too early in one that goes on
        (``NOT_ENDED``): cancel it with ``compensate=True``.
        """
        return self._control("compensate")

    def retry(self, step: str) -> ControlResult:
        """Have a step that was not handled begin again, and the run go on, also from ``failed``.

        Of a map, the items that were not handled begin again, at most ``limit`` at a time. It is too late for that in a
        run that was cancelled (``RUN_CANCELLED``), is or was compensated (``RUN_COMPENSATED``) or is completed
        (``RUN_COMPLETED``), and if other steps have begun on the failure (``OTHERS_BEGAN``), or a dead letter is out
        again (``REPLAYED``) of the step, of one of its items, of a function that has called it or of its calls. Its
        dead letter stays in the log, and is not replayed while the step goes on.

        Raises:
            InvalidPolicy: there is no step of that name.
        """
        return self._control("retry", self._step(step).number)

    def fork(self, *, after: str, workflow_id: str | None = None, deadline_s: float | None = None) -> Run:
        """Start a new run in which what is downstream of the step ``after`` begins again; this one stays as it is.

        All other steps keep their recorded outcomes, but for steps that had not ended, or whose failure was the run's:
        they begin again, too, with all that depends on them. Compensations of kept steps are this run's, and the new
        one does not send them. A ``workflow_id`` has one run: the same fork with it again (of this run, with the same
        ``after`` and ``deadline_s``) returns that run, also if it has failed or ended. To have those steps begin once
        more, give another id, or none.

        Raises:
            InvalidPolicy: there is no step of that name, or ``workflow_id`` or ``deadline_s`` is not allowed.
            WorkflowExists: the run with that id is another one.
        """
        known = check_id(workflow_id)
        if deadline_s is not None:
            seconds("deadline_s", deadline_s, above=True)
        if "/" in after:
            raise InvalidPolicy("after", after, "a step of the definition, not one that has taken the place of another")
        uid = self._backend().starts.fork(self.uid, self._step(after).number, known, deadline_s)
        return Run(uid, known, self._backend)

    def delete(self, *, force: bool = False) -> ControlResult:
        """Forget the run, which must have ended. What its steps still do counts in the ledger, and changes nothing.

        With ``force`` also one that goes on: it is cancelled first, so that what no worker has begun never begins.
        Compensations that are not sent yet are not sent any more.

        Raises:
            InvalidPolicy: ``force`` is neither true nor false.
        """
        check_bool("force", force)
        controls = self._backend().controls
        if force:
            controls.control(self.uid, "cancel", "0")
        return self._said(controls.delete(self.uid, force=force))

    def post(self, event: str, payload: Any = None) -> ControlResult:
        """Post an event to the steps that wait for it, now or later. If it is posted again, the first payload counts.

        Raises:
            InvalidPolicy: the event's name is not valid, or the payload is not JSON data, or of more bytes than
                ``result_limit_bytes``.
        """
        if not is_name(event):
            raise InvalidPolicy("event", event, "letters, digits, '_', '.', '-', at most 100")
        try:
            text = json.dumps(payload, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise InvalidPolicy("payload", payload, "JSON data") from None
        if len(text) > (limit := self._backend().result_limit_bytes):
            allowed = f"at most {limit} bytes as JSON, not {len(text)} (result_limit_bytes)"
            raise InvalidPolicy("payload", payload, f"{allowed}; keep what is large elsewhere, and post where it is")
        return self._control("post", event, text)

    def _control(self, action: str, value: str = "", payload: str = "") -> ControlResult:
        return self._said(self._backend().controls.control(self.uid, action, value, payload))

    def _said(self, said: str) -> ControlResult:
        if said == "unknown":
            raise UnknownWorkflow(self.id)
        return ControlResult(said)

    def _step(self, name: str) -> StepRecord:
        steps = self.steps()
        for step in steps:
            if step.name == name:
                return step
        raise InvalidPolicy("step", name, ", ".join(step.name for step in steps[:20]))


def _result(outcome: Outcome | None) -> Any:
    return outcome.result if isinstance(outcome, Handled) else None
