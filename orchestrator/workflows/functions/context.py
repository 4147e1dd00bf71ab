"""The first argument of a workflow function: what it calls and waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Unpack
from uuid import NAMESPACE_OID, UUID, uuid5

from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.core.workflows.plan import Kind
from orchestrator.workflows.definition import StepDefinition, StepOptions

if TYPE_CHECKING:
    from celery import Task
    from celery.canvas import Signature

    from orchestrator.agents.agent import Agent
    from orchestrator.core.message import Message
    from orchestrator.workflows.functions.execution import Execution


@named_arguments
class WorkflowContext:
    """Through this a workflow function calls and waits, so that each of its executions sees the same results.

    A call returns the recorded result of its step. If there is none yet, the execution ends there, and the function is
    executed again from its beginning when the step has ended; meanwhile it occupies no worker.
    """

    def __init__(self, execution: Execution) -> None:
        run = execution.run
        #: The run's id, which its starter has chosen; the run's own id; the name of the step that this is.
        self.id, self.uid, self.step = str(run["id"]), str(run["uid"]), str(run["name"])
        self._execution = execution
        self._seed = f"{self.uid}.{run['step']}"
        self._uuids = 0
        self._random = Random(self._seed)

    def __repr__(self) -> str:
        return f"<WorkflowContext {self.id!r}: {self.step}>"

    def call(
        self,
        recipient: str | type[Agent] | Signature | Task | Message,
        message: Message | None = None,
        *,
        undo: Message | Signature | Task | None = None,
        **options: Unpack[StepOptions],
    ) -> Any:
        """The result of a message to an agent, or of a signature or task: a step of the run, as any other.

        Args:
            recipient: the agent; or a signature or task; or with ``needs`` the message.
            message: the message to the agent.
            undo: its compensation, as of :meth:`Workflow.step`.
            options: those of a step.

        Raises:
            StepFailed: it was not handled, retries included.
        """
        return self._execution.results([_call(recipient, message, undo, options)])[0]

    def gather(
        self,
        calls: Iterable[tuple[str | type[Agent], Message] | Signature | Task | Message],
        **options: Unpack[StepOptions],
    ) -> list[Any]:
        """The results of several calls, in their order: pairs of an agent and a message, signatures, tasks.

        With ``needs``, messages. They are sent together, and it returns when all of them have ended.

        Raises:
            StepFailed: one of them was not handled: the first such one.
        """
        return self._execution.results([_member(call, options) for call in calls])

    def sleep(self, seconds: float) -> None:
        """Wait for a time, by Redis' clock; it is kept to about a second."""
        self._execution.results([lambda number: StepDefinition(f"sleep-{number}", Kind.WAIT, wait_s=seconds)])

    def wait_event(self, event: str, *, timeout_s: float | None = None) -> Any:
        """Wait for ``run.post(event, payload)``; returns the payload.

        Raises:
            StepFailed: it has not come within ``timeout_s``; ``error.outcome.reason`` is ``"timeout"``.
        """
        return self._execution.results(
            [lambda number: StepDefinition(f"event-{number}", Kind.WAIT, event=event, wait_s=timeout_s)]
        )[0]

    def side_effect(self, function: Callable[[], Any]) -> Any:
        """The result of a function, as JSON data: it is called once, and its result recorded with the next call.

        For what another execution would find changed: a clock, a file, a setting. It is called again if the worker
        dies before that; so what it does must do no harm twice. An error of it is one of this execution.
        """
        return self._execution.value("side_effect", function)

    @property
    def random(self) -> Random:
        """Random numbers that are the same in each execution."""
        self._execution.check_place()
        return self._random

    def now(self) -> datetime:
        """The time, recorded when the function comes here first; each later execution gets the same."""
        return datetime.fromtimestamp(self._execution.value("now", time.time), UTC)

    def uuid(self) -> UUID:
        """A new id, the same in each execution."""
        self._execution.check_place()
        self._uuids += 1
        return uuid5(NAMESPACE_OID, f"{self._seed}:{self._uuids}")


def _call(recipient: Any, message: Any, undo: Any, options: StepOptions) -> Callable[[str], StepDefinition]:
    is_task = message is None and not isinstance(recipient, str | type)
    what, to = (recipient, None) if is_task else (message if message is not None else recipient, recipient)
    return lambda number: StepDefinition(f"call-{number}", Kind.TASK, what, to, undo=undo, options=options)


def _member(call: Any, options: StepOptions) -> Callable[[str], StepDefinition]:
    match call:
        case (recipient, message):
            return _call(recipient, message, None, options)
    return _call(call, None, None, options)
