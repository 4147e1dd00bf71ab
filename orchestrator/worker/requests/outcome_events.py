"""The events of a delivery's attempts and of its end, as the worker and eager mode emit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.deliveries.supervision import Failure, Supervision
from orchestrator.telemetry import emit, events
from orchestrator.worker.requests.verdict import Verdict


def emit_handled(supervision: Supervision, delivery_id: str, attempts: int, runtime_s: float) -> None:
    """Emit that the handler returned in attempt number ``attempts``."""
    emit(
        events.HANDLED,
        {"runtime_s": runtime_s},
        agent=supervision.agent,
        message=supervision.message,
        id=delivery_id,
        attempts=attempts,
    )


def emit_resolved(lineage: object, delivery_id: str) -> None:
    """Emit that a replayed dead letter was handled, if the message has the lineage of one."""
    if isinstance(lineage, Mapping):
        emit(events.RESOLVED, letter_id=str(lineage.get("of", "")), id=delivery_id)


def emit_retried(supervision: Supervision, delivery_id: str, attempt: int, failure: Failure, pause_s: float) -> None:
    """Emit that attempt number ``attempt`` failed and that the next one follows in ``pause_s`` seconds."""
    emit(
        events.RETRIED,
        {"pause_s": pause_s},
        agent=supervision.agent,
        message=supervision.message,
        id=delivery_id,
        attempt=attempt,
        error=failure.type,
    )


def emit_dead(verdict: Verdict, *, agent: str, message: str, delivery_id: Any) -> None:
    """Emit that a delivery ended as dead: ``DEAD_LETTERED`` where a dead letter is kept, else ``DROPPED``."""
    outcome = verdict.outcome
    if verdict.letter is not None:
        verdict.letter.emit(agent=agent, message=message, delivery_id=delivery_id, error=outcome.error)
        return
    emit(
        events.DROPPED,
        agent=agent,
        message=message,
        id=delivery_id,
        reason=outcome.reason,
        error=outcome.error,
        attempts=outcome.attempts,
    )
