"""The state of a run, the effects of its rule, and outcomes of steps without a message; for :mod:`.run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.deliveries.outcome import Reason


class RunState(StrEnum):
    """The state of a run."""

    #: Its plan is not complete in Redis.
    WRITING = "writing"
    #: It begins once fewer runs of its limit are out.
    QUEUED = "queued"
    RUNNING = "running"
    #: A step has failed; nothing more begins, and it ends when no step is out.
    STOPPING = "stopping"
    COMPENSATING = "compensating"
    #: All steps have ended, and those that were not handled were skipped or guarded.
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Every compensation was handled.
    COMPENSATED = "compensated"
    #: Some compensation was not handled.
    COMPENSATION_FAILED = "compensation failed"


#: States in which a run may still change by itself.
OPEN_STATES: Final = frozenset(
    {RunState.WRITING, RunState.QUEUED, RunState.RUNNING, RunState.STOPPING, RunState.COMPENSATING}
)

#: States in which its compensation has begun; of its dead letters only those of compensations are replayed.
COMPENSATION_STATES: Final = frozenset({RunState.COMPENSATING, RunState.COMPENSATED, RunState.COMPENSATION_FAILED})

#: States of a run in which a failed step has stopped it; what would begin is kept until a replayed letter revives it.
STOPPED: Final = frozenset({RunState.STOPPING, RunState.FAILED})

#: Why no step of a run in such a state is retried; in any other it is, or was, compensated.
NO_RETRY: Final = {RunState.CANCELLED: "run cancelled", RunState.COMPLETED: "run completed"}

#: The first character of a state in which a step has ended, and the state's name.
ENDED: Final = {"h": "handled", "d": "dead", "e": "expired", "c": "cancelled", "k": "skipped"}

#: Those of a step that was not handled.
FAILED: Final = ("d", "e", "c")

#: Why a step is dead that failed by what is deployed, not by what it did: its handler was not run, or its function
#: makes other calls than it did. Such a failure compensates nothing, for a deploy and a retry repair it.
DEPLOYMENT_REASONS: Final = frozenset(
    {
        Reason.DEPLOYMENT,
        Reason.UNKNOWN_TASK,
        Reason.UNKNOWN_MESSAGE,
        Reason.UNSUPERVISED,
        Reason.MALFORMED,
    }
)

#: The state of a step that is dead for one of these reasons and whose failure is its run's.
DEAD_BY_DEPLOYMENT: Final = "d1"
LETTERS: Final = {name: letter for letter, name in ENDED.items()}


@dataclass(slots=True)
class Effects:
    """The effects to carry out, in this order."""

    #: Steps whose messages are to be sent.
    send: list[str] = field(default_factory=list)
    #: Steps that wait for a time, in ms from now.
    timers: list[tuple[str, int]] = field(default_factory=list)
    #: Whether the run had ended, and goes on.
    revived: bool = False
    #: The state in which the run has ended just now.
    ended: RunState | None = None
    #: Whether work is left that exceeds the budget.
    is_left: bool = False


def handled_outcome() -> dict[str, Any]:
    """The outcome of a step that does nothing."""
    return {"outcome": "handled", "result": None, "attempts": 0}


def dead_outcome(reason: str, error: str) -> dict[str, Any]:
    """The outcome of a step that could not be sent, or whose time has passed."""
    return {"outcome": "dead", "reason": reason, "error": error, "attempts": 0}
