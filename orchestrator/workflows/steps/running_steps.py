"""The steps of workflows that run in this process: their arguments, their contexts, and the steps that they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery

from orchestrator.agents.cancellation import Cancellation
from orchestrator.agents.directory import Directory
from orchestrator.core.deliveries.supervision import Supervision

if TYPE_CHECKING:
    from orchestrator.agents.expand import Expand
    from orchestrator.agents.step_context import StepContext
    from orchestrator.workflows.backend import RunsBackend


class RunningMode(Protocol):
    """The parts of a mode that running steps use."""

    @property
    def runs(self) -> RunsBackend:
        """The runs of workflows."""

    def fill_step(self, run: Mapping[str, Any], value: Any) -> Any:
        """The value with the results that it refers to in it."""

    def is_cancelled(self, delivery_id: str, supervision: Supervision | None) -> bool:
        """Whether a delivery, or its run, was cancelled."""


class RunningSteps:
    """Serves the tasks that execute steps of one app, in the mode of each call."""

    def __init__(self, app: Celery, directory: Directory, mode: Callable[[], RunningMode]) -> None:
        self._app = app
        self._directory = directory
        self._mode = mode

    def fill_arguments(self, run: Mapping[str, Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a step with the results in them that they refer to.

        Raises:
            InvalidStepInput: a result has no such part.
            BrokerUnavailable: Redis is away.
        """
        if not run.get("refs"):
            return args, kwargs
        filled = self._mode().fill_step(dict(run), [args, kwargs])
        return filled[0], filled[1]

    def expand(self, run: Mapping[str, Any], steps: Expand) -> Any:
        """Write the steps that a handler has returned to the plan of its run; returns what its outcome records.

        Raises:
            InvalidExpansion: they cannot be steps of its run.
            BrokerUnavailable: Redis is away.
        """
        from orchestrator.workflows.compiling.compiler import compile_steps
        from orchestrator.workflows.compiling.expansion import new_steps

        new = new_steps(steps)
        if not new.workflow.steps and new.final is not None:
            return new.final
        return self._mode().runs.steps.expand(partial(compile_steps, self._app, self._directory), new, run)

    def cancellation_of(self, delivery_id: str, supervision: Supervision | None) -> Cancellation:
        """Finds out whether a delivery that runs here was cancelled."""
        return Cancellation(lambda: self._mode().is_cancelled(delivery_id, supervision))

    def context_of(self, supervision: Supervision | None, cancellation: Callable[[], bool]) -> StepContext | None:
        """The context of the step that a message is; ``None`` if it is none."""
        if supervision is None or supervision.run is None:
            return None
        from orchestrator.workflows.steps.results import step_context

        fill, numbers = self._mode().fill_step, lambda uid: self._mode().runs.reads.numbers(uid)
        return step_context(supervision.run, fill, numbers, cancellation)

    def current(self) -> StepContext | None:
        """The step whose handler runs in this thread; see :meth:`Workflows.current_step`."""
        from orchestrator.worker.execution.message_supervision import supervision_of

        task = self._app.current_task
        if task is None:
            return None
        supervision = supervision_of(task.request)
        return self.context_of(supervision, self.cancellation_of(str(task.request.id), supervision))
