"""One run of a workflow in eager mode: its plan as it grows, its rule's state, and its steps that are to be sent."""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.workflows.placement import least_loaded
from orchestrator.core.workflows.plan import StepPlan, number_of
from orchestrator.core.workflows.run import Run
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.workflows.compiling.compiler import CompiledStep, CompiledWorkflow
from orchestrator.workflows.compiling.placement import Placement
from orchestrator.workflows.fork import ForkOrigin


@dataclass(slots=True, eq=False)
class InMemoryRun:
    """A run: the fields that Redis keeps beside the state in :class:`orchestrator.core.workflows.run.Run`."""

    id: str
    compiled: CompiledWorkflow
    rule: Run
    started_ms: int
    ended_ms: int = 0
    because: str = ""
    paused_with_workflow: bool = False
    uid: str = field(default_factory=lambda: secrets.token_hex(8))
    #: Steps to be sent; a step may end, and release others, while another one is sent.
    to_send: deque[str] = field(default_factory=deque)
    is_sending: bool = False
    #: Steps that had ended before the run began; in a fork.
    ended_before: Sequence[str] = ()
    #: Of a fork: what it was asked for with.
    fork_of: ForkOrigin | None = None
    #: The compiled steps by their numbers.
    steps: dict[str, CompiledStep] = field(default_factory=dict)
    #: The first number that no step has had.
    next_number: int = 0
    #: Agent -> steps to be sent to it that were placed by what they need.
    loads: Counter[str] = field(default_factory=Counter)
    #: Cancelled steps that run, and whose agents do not know yet that they are cancelled.
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = self.steps or {str(number): step for number, step in enumerate(self.compiled.steps)}
        self.next_number = self.next_number or len(self.steps)
        self.rule.take_back, self.rule.place = self._take_back, self._place

    def add_steps(self, count: int, steps: Sequence[CompiledStep], plans: Mapping[str, StepPlan]) -> None:
        """Add steps that a handler has returned or called."""
        new = {str(self.next_number + place): step for place, step in enumerate(steps)}
        self.steps |= new
        self.next_number += count
        self.rule.add_steps({**plans_of(new), **plans})

    def next_step(self) -> str:
        """Take the next of the steps to send."""
        step = self.to_send.popleft()
        self._unload(step)
        return step

    def message(self, step: str) -> OutgoingMessage:
        """The message of a step or of a compensation, with the run's data for the worker."""
        compiled, is_undo = self._compiled(step), step.startswith("u")
        message = compiled.undo if is_undo else compiled.message
        if message is None:
            placement = self._placement(step)
            message = replace(placement.candidates[self.rule.placed[step]], args=[placement.values])
        run = {"uid": self.uid, "id": self.id, "step": step, "name": compiled.plan.name + (".undo" if is_undo else "")}
        if compiled.undo_has_references if is_undo else compiled.has_references:
            run["refs"] = "1"
        return replace(message, id=f"{self.uid}.{step}", supervision=replace(message.supervision, run=run))

    def _place(self, step: str) -> int | None:
        # The candidate with the fewest steps to be sent gets it. All of them live.
        agents = [candidate.supervision.agent for candidate in self._placement(step).candidates]
        place = least_loaded([self.loads[agent] for agent in agents])
        if place is not None:
            self.loads[agents[place]] += 1
        return place

    def _take_back(self, step: str, cancelled: bool) -> bool:
        # Returns whether the step was not sent yet. If it runs and is cancelled, its agent is sent a message.
        if step not in self.to_send:
            self.cancelled += [step] if cancelled else []
            return False
        self.to_send.remove(step)
        self._unload(step)
        return True

    def _unload(self, step: str) -> None:
        if step in self.rule.placed:
            self.loads[self._placement(step).candidates[self.rule.placed[step]].supervision.agent] -= 1

    def _compiled(self, step: str) -> CompiledStep:
        return self.steps[number_of(step).removeprefix("u")]

    def _placement(self, step: str) -> Placement:
        compiled = self._compiled(step)
        placement = compiled.undo_placement if step.startswith("u") else compiled.placement
        assert placement is not None  # noqa: S101 - called only for steps with needs
        return placement


def plans_of(steps: Mapping[str, CompiledStep]) -> dict[str, StepPlan]:
    """The plans of steps by their numbers, with those of compensations that say what they need."""
    plans = {number: step.plan for number, step in steps.items()}
    for number, step in steps.items():
        if step.undo_placement is not None:
            plans[f"u{number}"] = StepPlan(f"{step.plan.name}.undo", options=step.undo_placement.plan_options)
    return plans
