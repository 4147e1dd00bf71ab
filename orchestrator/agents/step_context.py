"""The step of a workflow whose handler runs, as handlers see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agents.cancellation import never
from orchestrator.core.secrets.masked_repr import summary


@dataclass(frozen=True, slots=True)
class StepContext:
    """A step and its run; ``context.workflow``, or ``orchestrator.workflows.current_step()`` in a plain task."""

    #: The run's id, which its starter has chosen.
    id: str
    #: The run's own id, which no other run ever has.
    uid: str
    #: The step's name; of a compensation, that of the step that it undoes, and ``.undo``.
    step: str
    #: Of a map's step, the place of its item in the list, from 0.
    item: int | None = None
    #: The results of the run's steps by their names, each read when it is asked for: of a map the list of its items'
    #: results. ``None`` if the step was not handled, or not yet. An unknown name raises ``KeyError``; reading raises
    #: :class:`BrokerUnavailable` while Redis is away.
    results: Mapping[str, Any] = field(default_factory=dict)
    #: Finds out whether this is cancelled; see :attr:`cancelled`.
    cancellation: Callable[[], bool] = never

    @property
    def cancelled(self) -> bool:
        """Whether the step or its run was cancelled while this attempt runs; see :attr:`Context.cancelled`."""
        return self.cancellation()

    def __repr__(self) -> str:
        return summary(self, ("id", "uid", "step", "item"))
