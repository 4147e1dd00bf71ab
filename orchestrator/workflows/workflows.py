"""`orchestrator.workflows`: starts runs and finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery import Celery
from celery.canvas import Signature

from orchestrator.agents.step_context import StepContext
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import InvalidPolicy, UnknownWorkflow
from orchestrator.core.log import get_logger
from orchestrator.core.policies.effective import seconds
from orchestrator.core.policies.policy import OnError
from orchestrator.core.spelling.nearest import meant
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.core.workflows.run_state import RunState
from orchestrator.sending.address import Directory
from orchestrator.sending.send_options import SEND_OPTIONS
from orchestrator.workflows.backend import RunsBackend
from orchestrator.workflows.compiling.check import is_name, outlasting
from orchestrator.workflows.compiling.compiler import compile_workflow
from orchestrator.workflows.definition import CanvasOptions, Workflow
from orchestrator.workflows.functions.function import WorkflowFunction
from orchestrator.workflows.records import RunStatus
from orchestrator.workflows.run import Run, check_id

logger = get_logger(__name__)


@named_arguments
class Workflows:
    """Workflows of one app."""

    def __init__(
        self,
        app: Celery,
        directory: Directory,
        backend: Callable[[], RunsBackend],
        current_step: Callable[[], StepContext | None],
    ) -> None:
        self._app = app
        self._current_step = current_step
        self._directory = directory
        self._backend = backend

    def start(
        self,
        workflow: Workflow | WorkflowFunction[..., Any],
        *args: Any,
        workflow_id: str | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> Run:
        """Start a run. A ``workflow_id`` has one run: another start of the same definition with it returns that run.

        Also if it has ended. It keeps its deadline.

        Args:
            workflow: the definition; or a function with ``@orchestrator.workflow``.
            args: the arguments of the function after its context, which are part of the definition.
            kwargs: the same, by name.
            workflow_id: 1 to 200 characters; made up if it is not given.
            deadline_s: when the run is cancelled, in seconds from now; compensated if its ``on_failure`` says so.

        Raises:
            InvalidWorkflow: the definition has faults; all are listed, and nothing was written.
            UnknownAgent, UnknownMessage, NoAgents: its only fault is a step for such an agent, with such a message, or
                with needs that no known agent offers; the text names the step.
            WorkflowExists: the run with that id is of another definition.
            InvalidPolicy: ``workflow_id`` or ``deadline_s`` has a value that is not allowed.
            OutdatedWorker: a living worker that would handle a step is of a version of this library that begins no step
                after it.
            NotSupervised: the app's broker is not one that this library supervises.
            BrokerUnavailable: Redis did not accept it.
        """
        if isinstance(workflow, WorkflowFunction):
            workflow = workflow.workflow(args, kwargs)
        elif not isinstance(workflow, Workflow):
            raise InvalidPolicy("workflow", workflow, "a Workflow, or a function with @orchestrator.workflow")
        elif args or kwargs:
            raise InvalidPolicy("arguments", [*args, *kwargs], "none for a Workflow; a workflow function takes them")
        known = check_id(workflow_id)
        if deadline_s is not None:
            seconds("deadline_s", deadline_s, above=True)
            for step in outlasting(workflow, deadline_s):
                text = "workflow %s: deadline_s=%g is shorter than timeout_s=%g of step %r; the deadline comes first"
                logger.warning(text, workflow.name, deadline_s, step.options["timeout_s"], step.name)
        compiled = compile_workflow(self._app, self._directory, workflow)
        uid = self._backend().starts.start(compiled, known, deadline_s, is_new=workflow_id is None)
        return Run(uid, known, self._backend)

    def current_step(self) -> StepContext | None:
        """The step whose task runs in this thread, for a plain task; ``None`` outside of a workflow's steps.

        An agent's handler has the same as ``context.workflow``.
        """
        return self._current_step()

    def send(self, canvas: Signature, message: object, options: Mapping[str, Any]) -> Run:
        """Start the run of a canvas; see :meth:`Orchestrator.send`.

        Raises:
            InvalidWorkflow: the canvas has parts that have no counterpart.
            InvalidPolicy: an option has a bad value, or is none for a canvas.
            SendFailed: eager mode and ``on_error="raise"``, and a task of its result was not handled.
        """
        if message is not None:
            raise InvalidPolicy("message", message, "nothing, when a canvas is sent")
        given = {name: value for name, value in options.items() if value is not None}
        # The tasks of a canvas are placed with no agent.
        known = CanvasOptions.__optional_keys__ - {"needs", "place_within_s"}
        for name, value in given.items():
            if name not in SEND_OPTIONS:
                raise TypeError(
                    f"send() got an unexpected keyword argument {name!r}; allowed: {', '.join(sorted(known))}"
                )
            if name not in known:
                raise InvalidPolicy(name, value, f"for a canvas {', '.join(sorted(known))}")
        deadline_s = given.pop("deadline_s", None)
        run = self.start(Workflow.from_canvas(canvas, **given), deadline_s=deadline_s)
        if given.get("on_error") == OnError.RAISE and self._app.conf.task_always_eager:
            run.result()
        return run

    def get(self, workflow_id: str) -> Run:
        """The run with that ``workflow_id``, or with that uid.

        Raises:
            UnknownWorkflow: there is none, or it is not kept any more.
            BrokerUnavailable: Redis is away.
        """
        if not is_text(workflow_id):
            raise UnknownWorkflow(workflow_id)
        reads = self._backend().reads
        uid = reads.uid_of(workflow_id)
        status = reads.status(uid or workflow_id)
        if status is None:
            raise UnknownWorkflow(workflow_id)
        return Run(status.uid, status.id, self._backend)

    def list(self, *, name: str | None = None, state: RunState | str | None = None) -> Iterator[RunStatus]:
        """The runs that are kept, the newest first; those of a workflow's ``name``, or in a ``state``.

        Raises:
            InvalidPolicy: there is no such state.
            BrokerUnavailable: Redis is away.
        """
        if state is not None and state not in [*RunState, "paused"]:
            known = [*RunState, "paused"]
            raise InvalidPolicy("state", state, f"{', '.join(known)}{meant(state, known)}")
        reads = self._backend().reads
        return (
            status
            for uid in reads.uids()
            if (status := reads.status_or_skip(uid)) is not None
            and name in (None, status.name)
            and (state is None or state == status.state or (state == "paused" and status.paused))
        )

    def pause(self, name: str) -> int:
        """Pause all runs of a workflow that have not ended, and have its new runs start paused.

        Returns how many runs were paused. They are all paused once this returns, also if another process starts some.

        Raises:
            InvalidPolicy: no workflow can have that name.
            BrokerUnavailable: Redis is away; call it again.
        """
        return self._set_paused(name, paused=True)

    def resume(self, name: str) -> int:
        """Undo :meth:`pause`. Runs that were paused one by one stay so. Returns how many runs go on.

        Raises:
            InvalidPolicy: no workflow can have that name.
            BrokerUnavailable: Redis is away; call it again.
        """
        return self._set_paused(name, paused=False)

    def _set_paused(self, name: str, *, paused: bool) -> int:
        if not is_name(name):
            raise InvalidPolicy("name", name, "letters, digits, '_', '.', '-', at most 100")
        controls = self._backend().controls
        controls.set_paused(name, paused=paused)
        action, count = "pause" if paused else "resume", 0
        for status in self.list(name=name):
            if not status.ended:
                count += controls.control(status.uid, action, "workflow") == "done"
        return count

    def metrics(self) -> dict[str, dict[str, int]]:
        """The number of runs by workflow and state."""
        counts: dict[str, Counter[str]] = {}
        for status in self.list():
            counts.setdefault(status.name, Counter())[status.state.value] += 1
        return {name: dict(states) for name, states in sorted(counts.items())}
