"""Calls of workflow functions: part of the rule of runs (``run.py``), as in ``includes/run_calls.lua`` over Redis.

A function is a step whose handler is executed again and again. An execution that makes calls without recorded outcomes
ends with them: they are added to the run as steps, and the function's message is sent again once all of them have
ended. What it has asked for so far is its history. The history grows in the step that records such an end, and only if
that execution has read all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrator.core.workflows.plan import Kind, StepPlan, number_of, numbers_in
from orchestrator.core.workflows.run_retries import remember_undo, unfail
from orchestrator.core.workflows.run_state import FAILED

if TYPE_CHECKING:
    from orchestrator.core.workflows.run import Run

#: The option of a call's plan that says which step has made it.
CALLER: Final = "caller"

#: States of a run in which steps may begin, now or once it is revived; see ``RunState``.
_OPEN: Final = ("running", "stopping", "failed")


@dataclass(frozen=True, slots=True)
class Suspended:
    """The outcome of an execution that waits for calls."""

    #: The member of the outcome that has it.
    FIELD: ClassVar[str] = "suspended"

    #: The number of the first new call; the others follow.
    first: int
    count: int
    #: The number of entries that the history had.
    after: int
    #: What is added to the history: ``[fingerprint]`` of a call, ``[fingerprint, value]`` of a recorded value.
    entries: tuple[Sequence[Any], ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        entries = [list(entry) for entry in self.entries]
        return {"first": self.first, "count": self.count, "after": self.after, "entries": entries}


def calls_of(caller: str, first: int, plans: Sequence[StepPlan]) -> dict[str, StepPlan]:
    """New calls as the plan of their run has them, with what begins them.

    Their failures are outcomes like any other: the caller gets them.
    """
    begins = StepPlan(
        f"x{first}",
        Kind.JOIN,
        dependents=tuple(range(first, first + len(plans))),
        options={"in": caller, "count": len(plans)},
    )
    calls = (replace(plan, guarded=True, options={**plan.options, CALLER: caller}) for plan in plans)
    return {begins.name: begins} | {str(first + at): plan for at, plan in enumerate(calls)}


@dataclass(frozen=True, slots=True)
class CallList:
    """The calls of a function: how many entries its history has, and the numbers of its calls as ranges.

    Each range is a batch: the calls that one execution has ended with.
    """

    entries: int = 0
    ranges: str = ""

    @classmethod
    def from_text(cls, text: str | None) -> CallList:
        """Inverse of :meth:`to_text`."""
        if not text:
            return cls()
        entries, _, ranges = text.partition(":")
        return cls(int(entries), ranges)

    def to_text(self) -> str:
        """As Redis keeps it: ``ENTRIES:FIRST-LAST,FIRST-LAST``."""
        return f"{self.entries}:{self.ranges}"

    def then(self, suspended: Suspended | Mapping[str, Any]) -> CallList:
        """The list with the calls of another execution."""
        wire = suspended.to_wire() if isinstance(suspended, Suspended) else suspended
        first = wire["first"]
        one = f"{first}-{first + wire['count'] - 1}"
        ranges = f"{self.ranges},{one}" if self.ranges else one
        return CallList(self.entries + len(wire["entries"]), ranges)

    @property
    def numbers(self) -> list[str]:
        """The numbers of the calls, in their order."""
        return [str(number) for number in numbers_in(self.ranges)]

    @property
    def batches(self) -> list[str]:
        """The number in the plan by which each batch begins: ``x`` and the number of its first call."""
        return [f"x{one.partition('-')[0]}" for one in self.ranges.split(",") if one]

    @property
    def last_batch(self) -> int:
        """The number of the first call of the last batch; 0 if there is none."""
        return int(self.batches[-1][1:]) if self.ranges else 0


def suspend(run: Run, step: str, outcome: Mapping[str, Any]) -> None:
    """An execution of a function has ended with calls: they begin, and the function waits for them.

    It has no effect if another execution has recorded its end meanwhile: one of the two was of a replayed letter.
    """
    suspended, was = outcome[Suspended.FIELD], run.states.get(step, "")[:1]
    known = CallList.from_text(run.calls.get(step))
    if was not in ("s", "r", *FAILED) or known.entries != suspended["after"] or suspended["count"] == 0:
        return
    if run.state not in _OPEN:
        if was == "s":
            run.counts["open"] -= 1
            run._cancelled(step)
        return
    if was == "s":
        run.counts["open"] -= 1
    elif was != "r" and not bring_back(run, step, was):
        return
    first, count = suspended["first"], suspended["count"]
    run.states[step] = f"y{count}"
    run.states[f"x{first}"] = "h"
    run.outcomes[f"x{first}"] = outcome
    run.calls[step] = known.then(suspended).to_text()
    run._plan_work("d", f"x{first}")


def call_ended(run: Run, caller: str) -> None:
    """A call has ended: after the last one, the caller's message is sent again."""
    state = run.states.get(caller, "")
    if state[:1] != "y":
        return
    left = int(state[1:]) - 1
    run.states[caller] = f"y{left}"
    if left == 0:
        run._release(caller)


def has_seen(run: Run, step: str) -> bool:
    """Whether the caller has gone on from the failure of a call. The failure then stays, whatever a replay comes to.

    Otherwise the caller, executed again, would take another way than it has.
    """
    caller = run.plan[step].options.get(CALLER) if step in run.plan else None
    if caller is None or run.states.get(step, "")[:1] not in FAILED:
        return False
    return not _is_of_last_batch(run, step, caller) or run.states.get(caller, "")[:1] not in ("y", *FAILED)


def late_outcome(run: Run, step: str, outcome: Mapping[str, Any]) -> None:
    """Handle a replayed call whose failure its caller has seen: only the call's compensation is sent."""
    if outcome["outcome"] == "handled" and f"l{step}" not in run.outcomes:
        run.outcomes[f"l{step}"] = outcome
        remember_undo(run, step)


def call_revived(run: Run, caller: str) -> None:
    """Handle a replayed call: a caller that has failed with it is executed again."""
    was = run.states.get(caller, "")[:1]
    if was in FAILED and run.state in _OPEN and bring_back(run, caller, was):
        run._release(caller)


def retry_call(run: Run, step: str, was: str) -> bool:
    """Have a call that was not handled begin again. Returns false if its caller has gone on."""
    if not bring_back(run, step, was):
        return False
    run._release(step)
    return True


def has_letter_out(run: Run, step: str) -> bool:
    """Whether a letter was replayed, and has no outcome yet, of a step, of one above it or of one below it.

    A message of each would be out. The outcome of a call would have its caller sent again, beside the caller's letter.
    """
    above = _above(run, step)
    return any(step == one or one in above or step in _above(run, one) for one in run.replayed)


def _above(run: Run, step: str) -> list[str]:
    """The map that an item is of, the workflow function that has called a step, and so on."""
    found = []
    above: str | None = step
    while above is not None:
        if "." in above:
            found.append(number_of(above))
        # An undo is of no map and has no caller.
        plan = run.plan.get(number_of(above))
        above = None if plan is None else plan.options.get(CALLER)
        if above is not None:
            found.append(above)
    return found


def bring_back(run: Run, step: str, was: str) -> bool:
    """A step that was not handled has not ended after all. Returns false if others have begun on its failure.

    If it is a call, its caller waits for it again.
    """
    caller = run.plan[step].options.get(CALLER) if step in run.plan else None
    if caller is None:
        return unfail(run, step, was)
    state = run.states.get(caller, "")
    if not _is_of_last_batch(run, step, caller):
        return False
    if state[:1] == "y":
        run.states[caller] = f"y{int(state[1:]) + 1}"
    elif state[:1] in FAILED and bring_back(run, caller, state[0]):
        run.states[caller] = "y1"
    else:
        return False
    run._forget_outcome(step, was)
    return True


def _is_of_last_batch(run: Run, step: str, caller: str) -> bool:
    return int(step) >= CallList.from_text(run.calls.get(caller)).last_batch
