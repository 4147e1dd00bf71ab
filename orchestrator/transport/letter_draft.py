"""A message that becomes a dead letter: what is recorded of the reason, and its event.

All Python code that makes a dead letter uses :class:`LetterDraft`: workers, channels, senders of unroutable messages,
eager mode. Scripts that requeue or refuse messages make letters of the same fields (``why_dead`` in
``dead_letters.lua``); the process that reads the reply emits the event.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.fingerprint import fingerprint, normalised_stack
from orchestrator.core.deliveries.supervision import Failure
from orchestrator.core.secrets.masking import mask
from orchestrator.telemetry import emit, events

#: Longest text of an error that is recorded.
MESSAGE_LIMIT: Final = 2000


@dataclass(frozen=True, slots=True)
class LetterDraft:
    """The reason why a message becomes a dead letter."""

    reason: str
    #: The type of the error, and its text; empty if there was none.
    error: str = ""
    text: str = ""
    attempts: int = 0
    #: The failed attempts; ``None``: those that the message carries.
    failures: tuple[Failure, ...] | None = None
    #: The node that ran the last attempt; by default the incarnation that held the message.
    by: str = ""

    @property
    def described(self) -> str:
        """The error's type and text."""
        return f"{self.error}: {self.text}"

    def fields(self, queue: str, incarnation: str = "", hidden: Iterable[str] = ()) -> dict[str, Any]:
        """The recorded fields, as JSON data; in texts, the values of the ``hidden`` fields are masked."""
        why: dict[str, Any] = {"reason": self.reason, "attempts": self.attempts, "by": self.by or incarnation}
        if self.error or self.text:
            why["error"] = {"type": self.error, "message": self.text[:MESSAGE_LIMIT]}
        if self.failures is not None:
            why["failures"] = [failure.to_wire() for failure in self.failures]
        return {"queue": queue, "incarnation": incarnation, "at": to_ms(time.time()), **mask(why, hidden)}

    def outcome(self, error: str | None = None) -> dict[str, Any]:
        """The outcome of a delivery that ends so; ``error`` describes the error, by default :attr:`described`."""
        described = self.described if error is None else error
        return {"outcome": "dead", "reason": self.reason, "error": described, "attempts": self.attempts}

    def emit(self, *, agent: str, message: str, delivery_id: str, error: str | None = None) -> None:
        """Emit that the message is a dead letter; ``error`` describes the error, by default :attr:`described`."""
        emit(
            events.DEAD_LETTERED,
            agent=agent,
            message=message,
            id=delivery_id,
            reason=self.reason,
            error=self.described if error is None else error,
            attempts=self.attempts,
        )


def error_type(fields: Mapping[str, Any]) -> str:
    """The type of the error in a letter's :meth:`LetterDraft.fields`."""
    return str((fields.get("error") or {}).get("type", ""))


def group_of(fields: Mapping[str, Any], place: str = "") -> str:
    """The fingerprint of a letter's :meth:`LetterDraft.fields`.

    If no stack is known and ``place`` is not either, it is empty; then the script that adds the letter makes one.
    """
    failures = fields.get("failures")
    stack = str(failures[-1].get("traceback", "")) if failures else ""
    return fingerprint(error_type(fields), stack, place) if place or normalised_stack(stack) else ""


def summary_of(fields: Mapping[str, Any]) -> str:
    """Reason and error of a letter's :meth:`LetterDraft.fields`, for the log."""
    error = fields.get("error") or {}
    return ": ".join(filter(None, (fields["reason"], error.get("type"), error.get("message"))))[:300]
