"""The outcomes of a delivery, a closed union of four."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from orchestrator.core.checks.numbers import is_whole_number
from orchestrator.core.secrets.masked_repr import masked_repr, summary


class Reason(StrEnum):
    """The reason why a message became a dead letter."""

    EXHAUSTED = "retries exhausted"
    FINAL = "non-retryable error"
    TIMEOUT = "timeout"
    DEADLINE = "deadline passed"
    POISON = "poison"
    WORKERS_LOST = "workers lost"
    WORKER_DIED = "worker died"
    REJECTED = "rejected"
    MALFORMED = "malformed"
    VALIDATION = "validation"
    UNKNOWN_TASK = "unknown task"
    UNKNOWN_MESSAGE = "unknown message"
    EXPIRED = "expired"
    OVERFLOW = "mailbox overflow"
    UNROUTABLE = "unroutable"
    RESULT = "result not stored"
    RESULT_TOO_LARGE = "result too large"
    UNSUPERVISED = "not supervised"
    DEPLOYMENT = "deployment"
    UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True)
class Handled:
    """A handler returned; ``result`` is what it returned, as JSON data."""

    result: Any = None
    attempts: int = 1

    def __repr__(self) -> str:
        return f"Handled(result={masked_repr(self.result)}, attempts={self.attempts})"


@dataclass(frozen=True, slots=True)
class Dead:
    """No attempt is left; ``letter_id`` is the id of the dead letter, if one was kept."""

    reason: str
    error: str = ""
    attempts: int = 1
    letter_id: str | None = None

    def __repr__(self) -> str:
        return summary(self, ("reason", "error", "attempts", "letter_id"))


@dataclass(frozen=True, slots=True)
class Expired:
    """Its ``expires`` passed before a handler started."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was revoked, purged or dropped before a handler finished."""

    by: str = ""


Outcome = Handled | Dead | Expired | Cancelled


def kind(outcome: Outcome) -> str:
    """The outcome's name in ledgers, events and the command line."""
    return type(outcome).__name__.lower()


def to_wire(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain JSON data."""
    match outcome:
        case Handled(result, attempts):
            return {"outcome": "handled", "result": result, "attempts": attempts}
        case Dead(reason, error, attempts, letter_id):
            return {
                "outcome": "dead",
                "reason": reason,
                "error": error,
                "attempts": attempts,
                "letter_id": letter_id,
            }
        case Expired():
            return {"outcome": "expired"}
        case Cancelled(by):
            return {"outcome": "cancelled", "by": by}
        case _:
            assert_never(outcome)


def from_wire(wire: Mapping[str, Any]) -> Outcome:
    """Inverse of :func:`to_wire`.

    Raises:
        ValueError: ``wire`` describes no outcome.
    """
    if not isinstance(wire, Mapping):
        raise ValueError(f"no outcome: {wire!r}; allowed: an object")
    match wire.get("outcome"):
        case "handled":
            return Handled(wire.get("result"), _attempts(wire))
        case "dead":
            return Dead(
                str(wire.get("reason", "")),
                str(wire.get("error", "")),
                _attempts(wire),
                wire.get("letter_id"),
            )
        case "expired":
            return Expired()
        case "cancelled":
            return Cancelled(str(wire.get("by", "")))
        case other:
            raise ValueError(f"no outcome: {other!r}; allowed: handled, dead, expired, cancelled")


def _attempts(wire: Mapping[str, Any]) -> int:
    attempts: object = wire.get("attempts", 1)
    if not is_whole_number(attempts):
        raise ValueError(f"attempts={attempts!r}; allowed: a whole number")
    return attempts
