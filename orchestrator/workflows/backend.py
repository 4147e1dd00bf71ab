"""The backend of runs: in Redis, or in this process in eager mode. It has an object for each kind of use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.workflows.compiling.compiler import CompiledWorkflow
from orchestrator.workflows.compiling.expansion import Compile, NewSteps
from orchestrator.workflows.functions.calls import NewCalls
from orchestrator.workflows.functions.history import History
from orchestrator.workflows.records import RunDetails, RunStatus


class RunStarts(Protocol):
    """Starts runs. Methods raise :class:`BrokerUnavailable`."""

    def start(
        self, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None, *, is_new: bool = False
    ) -> str:
        """Start a run, unless there is one with that id, which is not looked for if it ``is_new``; returns its uid.

        Raises:
            WorkflowExists: the run with that id is of another definition.
        """

    def fork(self, uid: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        """Start a run that has the outcomes of another one but for what is downstream of a step; returns its uid.

        If there is the same fork with that id, also one that has ended, its uid.

        Raises:
            WorkflowExists: the run with that id is not the same fork: of the same run, after the same step, with the
                same deadline.
        """


class RunReads(Protocol):
    """Reads runs. Methods raise :class:`BrokerUnavailable`."""

    def uid_of(self, workflow_id: str) -> str | None:
        """The uid of a run."""

    def uids(self) -> Iterator[str]:
        """All runs that are kept, the newest first."""

    def status_or_skip(self, uid: str) -> RunStatus | None:
        """For lists: as ``status``; ``None``, with a line in the log, also for a run that cannot be read."""
        ...

    def status(self, uid: str) -> RunStatus | None:
        """A run as it is now; ``None`` if it is not kept."""

    def details(self, uid: str) -> RunDetails | None:
        """A run with its steps; ``None`` if it is not kept."""

    def numbers(self, uid: str) -> Mapping[str, tuple[str, bool]]:
        """The number of each step of a run by its name, and whether it is a map."""

    def outcome(self, uid: str, number: str) -> Outcome | None:
        """The outcome of a step or an item, by its number; ``None`` if it has none."""

    def item_count(self, uid: str, number: str) -> int:
        """The number of items of a map."""

    def final(self, uid: str) -> Any:
        """A run's result, as its workflow's ``final`` has it.

        Raises:
            NotHandled: a step that ``final`` refers to was not handled, or has not ended.
            InvalidStepInput: a result has no such part.
        """

    def wait(self, uid: str, timeout_s: float) -> bool:
        """Wait at most that long for the end of a run; whether it has ended."""


class RunControls(Protocol):
    """Acts on runs. Methods raise :class:`BrokerUnavailable`."""

    def control(self, uid: str, action: str, value: str = "", payload: str = "") -> str:
        """Act on a run; returns the result, such as ``done``."""

    def delete(self, uid: str, *, force: bool = False) -> str:
        """Forget a run that has ended, or with ``force`` was cancelled; returns the result."""

    def set_paused(self, name: str, *, paused: bool) -> bool:
        """Have new runs of a workflow start paused, or not; whether that was changed."""


class RunSteps(Protocol):
    """Serves the steps that run here. Methods raise :class:`BrokerUnavailable`."""

    def expand(self, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]) -> Expanded | None:
        """Write the steps that are to take the place of the one that ``run``, a message's header, describes.

        They do once the outcome of its handler is recorded. ``None`` if the run takes none any more.

        Raises:
            InvalidExpansion: they have faults, or are too many.
        """

    def history(self, run: Mapping[str, Any]) -> History:
        """The requests so far of the workflow function that ``run``, a message's header, describes.

        Raises:
            InvalidStepInput: its run is not kept any more.
        """

    def suspend(self, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]) -> Suspended:
        """Write the calls that the function makes; they begin once the outcome of its execution is recorded.

        Raises:
            InvalidExpansion: they have faults, or the run would have too many steps.
        """


@dataclass(frozen=True, slots=True)
class RunsBackend:
    """The runs of workflows in one mode of an app."""

    starts: RunStarts
    reads: RunReads
    controls: RunControls
    steps: RunSteps
    #: Most bytes of a step's result, or of an event's payload, as JSON.
    result_limit_bytes: int
