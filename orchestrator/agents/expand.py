"""`Expand`: what a handler of a workflow's step returns to have other steps take the step's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Task
    from celery.canvas import Signature

    from orchestrator.agents.agent import Agent
    from orchestrator.core.message import Message
    from orchestrator.workflows.definition import StepOptions, Workflow


@final
class Expand:
    """Steps that take the place of the step whose handler returns this.

    They begin in the same script that records the handler's outcome. The step ends when all of them have, theirs
    included if they return more; until then what depends on it waits. Its result is made of theirs: of a list the list
    of results in its order, of a canvas what ``apply_async().get()`` returns, of a workflow its ``final``, else an
    object of the results by the names of the steps.

    What cannot be steps of a workflow makes the step dead, with the reason ``validation``.

    Args:
        steps: a list of signatures, tasks, canvases and pairs ``(agent, message)``, or with ``needs`` of messages; a
            canvas; or a :class:`Workflow`, whose steps may depend on one another.
        options: those of a step that :class:`StepOptions` has, for each; not with a workflow, whose steps have their
            own.
    """

    def __init__(
        self,
        steps: Workflow | Signature | Iterable[Signature | Task | Message | tuple[str | type[Agent], Message]],
        **options: Unpack[StepOptions],
    ) -> None:
        self.steps: Any = steps
        self.options: StepOptions = options

    def __repr__(self) -> str:
        return f"<Expand: {self.steps!r}>"
