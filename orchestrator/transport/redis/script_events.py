"""Events of the scripts: they come with a reply (``includes/script_events.lua``), and are emitted when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.letter_draft import LetterDraft

logger = get_logger(__name__)


def unwrap_reply(reply: Any) -> Any:
    """A script's reply, without the events that came with it: they are emitted here."""
    if type(reply) is not list or len(reply) != 3 or reply[0] != b"events":
        return reply
    for kind, *values in reply[2]:
        _emit_event(kind.decode(), [value.decode("utf-8", "replace") for value in values])
    return reply[1]


def _emit_event(kind: str, values: Sequence[str]) -> None:
    match kind, values:
        case "breaker", ["open", queue, _]:
            emit(events.BREAKER_OPENED, agent=queue)
        case "breaker", ["half_open", queue, _]:
            emit(events.BREAKER_HALF_OPEN, agent=queue)
        case "breaker", ["closed", queue, _]:
            emit(events.BREAKER_CLOSED, agent=queue)
        case "breaker", ["isolated", queue, why]:
            emit(events.BREAKER_ISOLATED, agent=queue, why=why)
        case "on_hold", [queue, host]:
            emit(events.MAILBOX_HELD, agent=queue, host=host)
        case "released", [queue, host]:
            emit(events.MAILBOX_RELEASED, agent=queue, host=host)
        case "lease_granted", [kind, name, owner, fence]:
            emit(events.LEASE_GRANTED, kind=kind, lease=name, owner=owner, fence=int(fence))
        case "lease_ended", [kind, name, owner, fence, reason]:
            emit(events.LEASE_ENDED, kind=kind, lease=name, owner=owner, fence=int(fence), reason=reason)
        case "lease_refused", [kind, name, owner, resource]:
            emit(events.LEASE_REFUSED, kind=kind, lease=name, owner=owner, resource=resource)
        case "voted", [ballot, message, voter, vote, why]:
            emit(events.BALLOT_VOTED, ballot=ballot, message=message, voter=voter, vote=vote, why=why)
        case "ballot_decided", [ballot, message, decision, how, *weights]:
            approved, rejected, silent, of = map(int, weights)
            measured = {"approved": approved, "rejected": rejected, "silent": silent, "of": of}
            emit(events.BALLOT_DECIDED, measured, ballot=ballot, message=message, decision=decision, how=how)
        case "barrier_tripped", [name, generation, parties]:
            emit(events.BARRIER_TRIPPED, {"parties": int(parties)}, barrier=name, generation=int(generation))
        case "barrier_broken", [name, generation, reason, party, missing]:
            told: dict[str, Any] = {"barrier": name, "generation": int(generation), "reason": reason, "party": party}
            emit(events.BARRIER_BROKEN, {"missing": int(missing)}, **told)
        case "barrier_shrunk", [name, generation, party, reason]:
            emit(events.BARRIER_SHRUNK, barrier=name, generation=int(generation), party=party, reason=reason)
        case "barrier_reset", [name, generation]:
            emit(events.BARRIER_RESET, barrier=name, generation=int(generation))
        case "barrier_sent", [name, generation, party, agent, delivery_id]:
            told = {"barrier": name, "generation": int(generation), "party": party}
            emit(events.BARRIER_SENT, agent=agent, id=delivery_id, **told)
        case "warning", [queue, depth, limit]:
            emit(events.MAILBOX_WARNING, {"depth": int(depth), "limit": int(limit)}, agent=queue)
        case "overflow", [queue, limit, overflow, letter_id, delivery_id, agent, message, text]:
            emit(
                events.MAILBOX_OVERFLOW,
                {"limit": int(limit)},
                agent=queue,
                message=message,
                id=delivery_id,
                overflow=overflow,
                letter_id=letter_id,
            )
            letter = LetterDraft(Reason.OVERFLOW.value, "MailboxFull", text)
            letter.emit(agent=agent, message=message, delivery_id=delivery_id, error=text)
        case "poison", [delivery_id, agent, message, deaths, reason, queue, letter_id, why, task]:
            logger.warning(
                "dead letter %s in %s: %s: %s; message %s, task %s", letter_id, queue, reason, why, delivery_id, task
            )
            letter = LetterDraft(reason, "WorkerLost", why, int(deaths))
            letter.emit(agent=agent, message=message, delivery_id=delivery_id, error=letter.error)
        case "run_started", [uid, run_id, workflow]:
            emit(events.WORKFLOW_STARTED, workflow=workflow, id=run_id, uid=uid)
        case "run_ended", [uid, run_id, workflow, state, took_ms]:
            took = {"duration_s": int(took_ms) / 1000}
            emit(events.WORKFLOW_ENDED, took, workflow=workflow, id=run_id, uid=uid, state=state)
        case "run_revived", [uid, run_id, workflow]:
            emit(events.WORKFLOW_REVIVED, workflow=workflow, id=run_id, uid=uid)
        case "run_paused", [uid, run_id, workflow]:
            emit(events.WORKFLOW_PAUSED, workflow=workflow, id=run_id, uid=uid)
        case "run_resumed", [uid, run_id, workflow]:
            emit(events.WORKFLOW_RESUMED, workflow=workflow, id=run_id, uid=uid)
        case "run_cancelled", [uid, run_id, workflow]:
            emit(events.WORKFLOW_CANCELLED, workflow=workflow, id=run_id, uid=uid)
        case "workflow_repaired", [uid, run_id, workflow, step, how]:
            emit(events.WORKFLOW_REPAIRED, workflow=workflow, id=run_id, uid=uid, step=step, how=how)
        case "workflow_unplaced", [uid, run_id, workflow, step, needs]:
            logger.warning("step %s of run %s is unplaced: no living agent offers %s", step, run_id, needs)
            emit(events.WORKFLOW_UNPLACED, workflow=workflow, id=run_id, uid=uid, step=step, needs=needs)
        case "schedule_paused", [schedule, reason]:
            logger.warning("schedule %s is paused: %s", schedule, reason)
            emit(events.SCHEDULE_PAUSED, schedule=schedule, reason=reason)
        case "schedules_key_broken", [key, error]:
            logger.error("key %s of the schedules is broken: %s", key, error)
            emit(events.SCHEDULES_KEY_BROKEN, key=key, error=error)
        case "fell_back", [agent, delivery_id, ask_id, ended]:
            emit(events.FALLBACK_SENT, agent=agent, id=delivery_id, ask=ask_id, ended=ended)
        case "worker_died", [delivery_id, agent, message, deaths, queue, letter_id, why, task]:
            logger.warning("message %s, task %s in %s: not run again: %s", delivery_id, task, queue, why)
            letter = LetterDraft(Reason.WORKER_DIED.value, "WorkerLost", why, int(deaths))
            if letter_id:
                letter.emit(agent=agent, message=message, delivery_id=delivery_id, error=letter.error)
            else:
                emit(
                    events.DROPPED,
                    agent=agent,
                    message=message or task,
                    id=delivery_id,
                    reason=letter.reason,
                    error=letter.error,
                    attempts=letter.attempts,
                )
        case "replied", [asker, ask_id, ended]:
            emit(events.REPLIED, agent=asker, id=ask_id, ended=ended)
        case "compensated", [group, queue, delivery_id]:
            emit(events.COMPENSATED, agent=queue, id=delivery_id, broadcast=group.rsplit(":", 1)[-1])
