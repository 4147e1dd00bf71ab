"""Workflow functions: a workflow as a function, which calls its steps one after the other.

The function is a Celery task, and a step of a run like any other. Its task is executed again each time that what it has
called has ended; see ``execution.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, NoReturn, ParamSpec, TypeVar

from celery.canvas import Signature

from orchestrator.core.errors import CallerError, InvalidWorkflow, NotSupervised
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.workflows.plan import OnFailure
from orchestrator.sending.celery_sends import STARTED_BY, outside_of_runs
from orchestrator.sending.send_options import check_options
from orchestrator.worker.execution.message_supervision import supervision_of
from orchestrator.workflows.compiling.check import is_name
from orchestrator.workflows.compiling.compiler import compile_steps
from orchestrator.workflows.definition import Limit, StepOptions, Workflow, on_failure_fault
from orchestrator.workflows.functions.calls import NewCalls
from orchestrator.workflows.functions.context import WorkflowContext
from orchestrator.workflows.functions.execution import Execution
from orchestrator.workflows.references import Reference

if TYPE_CHECKING:
    from orchestrator.wiring.runtime import Runtime

P = ParamSpec("P")
R = TypeVar("R")

#: Parameters that ``orchestrator.workflows.start`` has itself.
_OWN: Final = ("workflow", "workflow_id", "deadline_s")

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FunctionOptions(StepOptions, total=False):
    """The arguments of ``@orchestrator.workflow``: its workflow's options, and those of the function's step."""

    name: str
    on_failure: OnFailure | str
    max_running: int | Limit | None


class WorkflowFunction(Generic[P, R]):
    """A function with ``@orchestrator.workflow``; ``orchestrator.workflows.start(function, …)`` starts a run of it.

    Called with a context it is the function itself, for a test.
    """

    def __init__(
        self, runtime: Runtime, function: Callable[Concatenate[WorkflowContext, P], R], options: FunctionOptions
    ) -> None:
        own: dict[str, Any] = dict(options)
        self.__wrapped__ = function
        self.__doc__ = getattr(function, "__doc__", None)
        self.__name__ = str(getattr(function, "__name__", function))
        #: The name of its workflow.
        self.name: str = own.pop("name", self.__name__)
        self._runtime, self._app = runtime, runtime.app
        self._on_failure = own.pop("on_failure", OnFailure.STOP)
        self._max_running = own.pop("max_running", None)
        self._options: Any = own
        #: The name of its task.
        self.task_name: str = self._app.gen_task_name(self.__name__, getattr(function, "__module__", ""))
        problems = [*_problems(function), *self._option_problems()]
        if problems:
            raise InvalidWorkflow(self.name, problems)
        runtime.functions[self.task_name] = self
        #: How it is started, for errors of what would send it.
        self.__started_by__ = (
            f"which orchestrator.workflows.start({self.__name__}, …) starts, or a workflow with the step "
            f"{self.__name__}.s(…)"
        )
        late = {"acks_late": True, "reject_on_worker_lost": True}
        self._app.task(
            _executed(runtime, function),
            name=self.task_name,
            bind=True,
            ignore_result=True,
            typing=False,
            shared=False,
            **late,
            **{STARTED_BY: self.__started_by__},
        )

    def __call__(self, context: WorkflowContext, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(context, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<WorkflowFunction {self.task_name}>"

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """A signature of its task, for a step of another workflow, or a call of another function.

        Raises:
            TypeError: the function does not take these arguments.
        """
        inspect.signature(self.__wrapped__).bind(None, *args, **kwargs)
        return self._app.signature(self.task_name, args=args, kwargs=kwargs)

    def delay(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse, as :meth:`apply_async`.

        Raises:
            InvalidPolicy: always.
        """
        self.apply_async()

    def apply_async(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse: outside of a run nothing is recorded. The error says what starts it.

        Raises:
            InvalidPolicy: always.
        """
        raise outside_of_runs(self, self.__started_by__)

    def workflow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Workflow:
        """The workflow of one step that a start with these arguments is.

        Raises:
            InvalidWorkflow: the function does not take these arguments.
        """
        try:
            signature = self.s(*args, **kwargs)
        except TypeError as error:
            raise InvalidWorkflow(self.name, [f"its arguments: {error}"]) from None
        flow = Workflow(self.name, on_failure=self._on_failure, max_running=self._max_running)
        flow.step(self.name, signature, **self._options)
        flow.final = Reference(self.name)
        return flow

    def _option_problems(self) -> Iterator[str]:
        if not is_name(self.name):
            yield f"name={masked_repr(self.name)}; allowed: letters, digits, '_', '.', '-', at most 100"
        if self._on_failure not in list(OnFailure):
            yield on_failure_fault(self._on_failure)
        try:
            check_options(self._options, _STEPS, "workflow", _WORKFLOWS)
        except (CallerError, TypeError) as error:
            yield str(error)
        if self.task_name in self._runtime.functions or self.task_name in self._app._tasks:
            yield f"a task has the name {self.task_name} already"


#: Options of the step that executes the function: it is a task, which has no capabilities.
_STEPS: Final = StepOptions.__optional_keys__ - {"needs", "place_within_s"}

_WORKFLOWS: Final = frozenset({"name", "on_failure", "max_running"})


def _problems(function: Any) -> Iterator[str]:
    if isinstance(function, type) or not callable(function) or not hasattr(function, "__name__"):
        yield f"{masked_repr(function)} is no function; allowed: def name(ctx, …)"
        return
    kinds = {
        "an async function": inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        "a generator function": inspect.isgeneratorfunction(function),
    }
    for kind, is_one in kinds.items():
        if is_one:
            yield f"it is {kind}; allowed: a function without async and yield"
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        yield "it takes no context; allowed: the context as its first parameter"
    for parameter in parameters[1:]:
        if parameter.name in _OWN:
            yield f"its parameter {parameter.name!r} has the name of one of start(); allowed: another name"


def _executed(runtime: Runtime, function: Callable[..., Any]) -> Callable[..., Any]:
    def execute(task: Any, *args: Any, **kwargs: Any) -> Any:
        supervision = supervision_of(task.request)
        if supervision is None or supervision.run is None:
            raise NotSupervised(
                f"{task.name} is a workflow function; allowed: workflows.start(…), or a workflow's step"
            )
        run, steps = dict(supervision.run), runtime.mode.runs.steps

        def suspend(definitions: Any, after: int, entries: Any) -> Any:
            compiled = partial(compile_steps, runtime.app, runtime.directory)
            return steps.suspend(compiled, NewCalls(definitions, after, entries), run)

        limit = runtime.settings.result_limit_bytes
        execution = Execution(task.name, run, steps.history(run), suspend, limit)
        return execution.finish(lambda: function(WorkflowContext(execution), *args, **kwargs))

    execute.__name__ = function.__name__
    execute.__doc__ = function.__doc__
    return execute
