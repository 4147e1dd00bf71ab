"""The contract: every event, what is measured and what it says. Names and fields only ever grow.

An event always has the fields that are named here, and no others. A test compares every place that
emits with this list.
"""

from __future__ import annotations

from typing import Final


class EventName(str):
    """An event's name, which knows its fields."""

    meaning: str
    measurements: tuple[str, ...]
    metadata: tuple[str, ...]


_CONTRACT: dict[str, EventName] = {}


def _event(name: str, meaning: str, *, measurements: str = "", metadata: str = "") -> EventName:
    event = EventName(name)
    event.meaning = meaning
    event.measurements = tuple(measurements.split())
    event.metadata = tuple(metadata.split())
    _CONTRACT[name] = event
    return event


def contract() -> tuple[EventName, ...]:
    """All events, in the order of this file."""
    return tuple(_CONTRACT.values())


SEND_STARTED: Final = _event("send.start", "A send begins.", metadata="agent message id")
SENT: Final = _event("send.stop", "The message was accepted.", measurements="duration_s", metadata="agent message id")
SEND_FAILED: Final = _event(
    "send.exception",
    "The send raised an error. If that says that Redis did not answer, the message may have been accepted.",
    measurements="duration_s",
    metadata="agent message id error",
)
HANDLED: Final = _event(
    "delivery.handled", "A handler returned.", measurements="runtime_s", metadata="agent message id attempts"
)
SETTLING_FAILED: Final = _event(
    "delivery.settling_failed",
    "The end of an attempt could not be recorded as it should; the message became a dead letter unless it had ended.",
    metadata="agent message id error",
)
RETRIED: Final = _event(
    "delivery.retried",
    "An attempt failed and another is scheduled.",
    measurements="pause_s",
    metadata="agent message id attempt error",
)
RESULT_WAITS: Final = _event(
    "delivery.result_waits",
    "A handler returned, but the result backend could not be reached; the result is stored later.",
    metadata="agent message id error",
)
ABANDONED: Final = _event(
    "delivery.abandoned",
    "A worker held a message for which no code ran any more; it went back to its mailbox or became a dead letter.",
    metadata="message id became",
)
DROPPED: Final = _event(
    "delivery.dropped",
    "A message's attempts are used up and its sender wanted no dead letter.",
    metadata="agent message id reason error attempts",
)
DEAD_LETTERED: Final = _event(
    "dead_letter.added", "A message became a dead letter.", metadata="agent message id reason error attempts"
)
REPLAYED: Final = _event("dead_letter.replayed", "A dead letter was replayed.", metadata="letter_id queue")
PURGED: Final = _event("dead_letter.purged", "Dead letters were removed by hand.", measurements="count")
MAILBOX_WARNING: Final = _event(
    "mailbox.warning",
    "A bounded mailbox has filled up to its warning threshold.",
    measurements="depth limit",
    metadata="agent",
)
MAILBOX_OVERFLOW: Final = _event(
    "mailbox.overflow",
    "A full mailbox dropped a message, which became a dead letter.",
    measurements="limit",
    metadata="agent message id overflow letter_id",
)
MAILBOX_UNSERVED: Final = _event(
    "mailbox.unserved",
    "A mailbox has mail and no living worker serves it.",
    measurements="waiting oldest_s",
    metadata="agent",
)
MAILBOX_HELD: Final = _event(
    "mailbox.held",
    "A supervisor has put a mailbox on hold for its host: the workers that serve it keep ending.",
    metadata="agent host",
)
MAILBOX_RELEASED: Final = _event(
    "mailbox.released",
    "A mailbox is on hold no more: the supervisor of that host has released it, or a worker of another host has "
    "claimed from it.",
    metadata="agent host",
)
BREAKER_OPENED: Final = _event(
    "breaker.opened", "Too many attempts failed; sends are refused for a while.", metadata="agent"
)
BREAKER_HALF_OPEN: Final = _event("breaker.half_open", "One message was let through as a probe.", metadata="agent")
BREAKER_CLOSED: Final = _event(
    "breaker.closed", "A message was handled, or somebody closed it; sends go through again.", metadata="agent"
)
BREAKER_ISOLATED: Final = _event(
    "breaker.isolated",
    "Somebody isolated it; sends are refused until somebody closes it.",
    metadata="agent why",
)
REPEATED: Final = _event(
    "send.repeated",
    "A send was not accepted, because one under its idempotency key had been; the id is that one's.",
    measurements="duration_s",
    metadata="agent message id",
)
BROADCAST: Final = _event(
    "broadcast.sent",
    "A broadcast was accepted.",
    measurements="accepted refused duration_s",
    metadata="id message strategy",
)
BROADCAST_REFUSED: Final = _event(
    "broadcast.refused",
    "A broadcast was sent to no recipient: more recipients than its strategy allows could not take it.",
    measurements="refused duration_s",
    metadata="id message strategy",
)
COMPENSATED: Final = _event(
    "broadcast.compensated",
    "A recipient that handled its copy was sent the compensation, because another's copy died.",
    metadata="agent id broadcast",
)
RESOLVED: Final = _event("dead_letter.resolved", "A replayed dead letter was handled.", metadata="letter_id id")
PARKED: Final = _event("dead_letter.parked", "Dead letters were put aside.", measurements="count")
UNPARKED: Final = _event("dead_letter.unparked", "Parked dead letters were made open again.", measurements="count")
LETTERS_EXPIRED: Final = _event(
    "dead_letter.expired",
    "Dead letters were removed unresolved, because of their age or number.",
    measurements="count",
    metadata="reason",
)
REPLAY_STOPPED: Final = _event(
    "replay.stopped",
    "A replay was stopped by its canary, or because a mailbox refused.",
    measurements="sent dead",
    metadata="audit_id why",
)
AGENT_UP: Final = _event("agent.up", "An incarnation took out its lease.", metadata="incarnation")
AGENT_DEAD: Final = _event(
    "agent.dead", "An incarnation was declared dead.", measurements="silent_s", metadata="incarnation reason by"
)
AGENT_STUCK: Final = _event(
    "agent.stuck",
    "An incarnation beat, but asked for no messages while some waited; agent.dead follows.",
    metadata="incarnation by",
)
AGENT_FENCED: Final = _event("agent.fenced", "This process was declared dead while it was not.", metadata="incarnation")
BROKER_SWITCHED: Final = _event(
    "broker.switched",
    "Of several servers, this process uses another one now for all of its connections.",
    metadata="broker before",
)
DATASET_LOST: Final = _event(
    "dataset.lost",
    "Redis has lost what it held: it came back with another data set (replaced), or with an earlier state (rewound, "
    "and by how much).",
    measurements="lost_s",
    metadata="kind dataset born incarnation",
)
RECLAIMED: Final = _event(
    "mail.reclaimed",
    "Messages of a dead incarnation were requeued.",
    measurements="moved dead_lettered",
    metadata="incarnation",
)
SWEEP_STARTED: Final = _event("sweep.started", "A sweeper has its turn, and looks for the dead.", metadata="by")
SWEPT: Final = _event("sweep.finished", "A sweep ran.", measurements="late dead", metadata="by")
SWEEP_FALLBACK: Final = _event(
    "sweep.fallback",
    "The monitor manager has not swept; another process did in its place.",
    measurements="stale_s",
    metadata="by",
)
MONITORED: Final = _event("monitor.created", "Monitors were made.", measurements="count", metadata="owner")
UNMONITORED: Final = _event(
    "monitor.cleaned",
    "Monitors have ended: removed, or their owner or their target died. `who` says which.",
    measurements="count",
    metadata="who why",
)
DOWN: Final = _event("monitor.down", "DOWNs were recorded.", measurements="count", metadata="target reason")
LEAKED: Final = _event(
    "monitor.leaked", "Leaked monitors were found.", measurements="count", metadata="kind tag oldest_s"
)
DISTRIBUTED: Final = _event(
    "distribution.sent",
    "The items of a distribution were accepted, all together.",
    measurements="items agents duration_s",
    metadata="id strategy",
)
DISTRIBUTION_REFUSED: Final = _event(
    "distribution.refused",
    "No item of a distribution was sent: its agents do not take all of them.",
    measurements="items",
    metadata="id strategy",
)
BULKHEAD_FULL: Final = _event(
    "bulkhead.full",
    "A request was refused: as many as the agent's bulkhead allows were in flight.",
    measurements="in_flight",
    metadata="agent",
)
ASKED: Final = _event(
    "ask.sent", "A request was accepted whose reply is a message to its asker.", metadata="agent message id asker"
)
FELL_BACK: Final = _event(
    "call.fell_back",
    "A call had no reply, and went on as its fallback says: Ask, Stale, Value or Send.",
    metadata="agent message to error",
)
DEADLOCK: Final = _event(
    "call.deadlock",
    "A call waits for itself: all slots that could answer it wait in calls. `ring` names the agents; `no_slot` says "
    "whose slot an agent needs that another one has.",
    metadata="agent message ring no_slot",
)
FALLBACK_SENT: Final = _event(
    "call.fallback_sent",
    "Redis has sent a call's durable fallback; `ended` is how its request ended, or timeout.",
    metadata="agent id ask ended",
)
HEDGED: Final = _event(
    "call.hedged", "There was no reply yet, so a copy of a call's request was sent.", metadata="agent message id ask"
)
REPLIED: Final = _event(
    "ask.replied",
    "The reply to an ask was put into its asker's mailbox; `ended` is the outcome's kind, or timeout.",
    metadata="agent id ended",
)
LEASE_GRANTED: Final = _event(
    "lease.granted",
    "A permit of a lease, an election, a semaphore or a pool was granted.",
    metadata="kind lease owner fence",
)
LEASE_ENDED: Final = _event(
    "lease.ended",
    "A permit is held no more, and why: released, limit, attempt ended, or why its owner has died.",
    metadata="kind lease owner fence reason",
)
LEASE_REFUSED: Final = _event(
    "lease.refused",
    "An owner checked in a resource of a pool that it did not hold.",
    metadata="kind lease owner resource",
)
BALLOT_PROPOSED: Final = _event(
    "ballot.proposed", "A proposal was put to its voters.", measurements="voters", metadata="ballot message"
)
BALLOT_VOTED: Final = _event(
    "ballot.voted",
    "A vote was counted: approve, reject, or silent and why.",
    metadata="ballot message voter vote why",
)
BALLOT_DECIDED: Final = _event(
    "ballot.decided",
    "A ballot was decided: accepted or rejected, by votes, a timeout or a cancel. What is measured are weights.",
    measurements="approved rejected silent of",
    metadata="ballot message decision how",
)
BARRIER_TRIPPED: Final = _event(
    "barrier.tripped", "All parties had arrived.", measurements="parties", metadata="barrier generation"
)
BARRIER_BROKEN: Final = _event(
    "barrier.broken",
    "A generation has not tripped and will not; `party` is who has broken it, if one has.",
    measurements="missing",
    metadata="barrier generation reason party",
)
BARRIER_SHRUNK: Final = _event(
    "barrier.shrunk", "A generation does without a party that has died.", metadata="barrier generation party reason"
)
BARRIER_RESET: Final = _event(
    "barrier.reset", "The next generation of a barrier may begin.", metadata="barrier generation"
)
BARRIER_SENT: Final = _event(
    "barrier.sent",
    "A message that a party had left at a barrier was put into its mailbox.",
    metadata="barrier generation party agent id",
)
WORKFLOW_STARTED: Final = _event("workflow.started", "A run of a workflow began.", metadata="workflow id uid")
WORKFLOW_ENDED: Final = _event(
    "workflow.ended",
    "A run ended, in that state; `compensated` may follow `compensation failed`, after the replay of a letter.",
    measurements="duration_s",
    metadata="workflow id uid state",
)
WORKFLOW_REVIVED: Final = _event(
    "workflow.revived",
    "An ended run goes on, because a step of it is to be handled after all.",
    metadata="workflow id uid",
)
WORKFLOW_PAUSED: Final = _event("workflow.paused", "A run begins no further step.", metadata="workflow id uid")
WORKFLOW_RESUMED: Final = _event("workflow.resumed", "A paused run goes on.", metadata="workflow id uid")
WORKFLOW_CANCELLED: Final = _event(
    "workflow.cancelled", "A run was cancelled, by hand or at its deadline.", metadata="workflow id uid"
)
WORKFLOW_UNPLACED: Final = _event(
    "workflow.unplaced",
    "No agent lives that offers what a workflow's step needs: the first such step of a run, until all are placed.",
    metadata="workflow id uid step needs",
)
WORKFLOW_REPAIRED: Final = _event(
    "workflow.repaired",
    "The message of a workflow's step was nowhere. How: its outcome was recorded late, or it was sent again.",
    metadata="workflow id uid step how",
)
SCHEDULE_FIRED: Final = _event(
    "schedule.fired", "A schedule's message was accepted.", measurements="late_s", metadata="schedule id"
)
SCHEDULE_MISSED: Final = _event(
    "schedule.missed",
    "Nominal times of a schedule were not fired: they were too late, or their mailbox had no room until then.",
    measurements="count",
    metadata="schedule reason",
)
SCHEDULE_SKIPPED: Final = _event(
    "schedule.skipped",
    "Nominal times of a schedule were not fired, as its policy says: overlap, a pause, its end.",
    measurements="count",
    metadata="schedule reason",
)
SCHEDULE_REFUSED: Final = _event(
    "schedule.refused",
    "A schedule's mailbox is full, or its breaker is open: the fire is tried again until its grace is over.",
    metadata="schedule reason",
)
SCHEDULE_FAILED: Final = _event(
    "schedule.failed",
    "A schedule's message could not be made: it is tried again until its grace is over.",
    metadata="schedule error",
)
SCHEDULE_BROKEN: Final = _event(
    "schedule.broken",
    "A definition or a state in Redis cannot be read: the schedule is set aside.",
    metadata="schedule error",
)
SCHEDULES_KEY_BROKEN: Final = _event(
    "schedules.key_broken",
    "A key or a total that all schedules share holds something else: it is set aside under another name.",
    metadata="key error",
)
SCHEDULE_PAUSED: Final = _event(
    "schedule.paused", "A schedule paused itself, because a fire was not handled.", metadata="schedule reason"
)
SCHEDULES_LOST: Final = _event(
    "schedules.lost",
    "Redis has forgotten its schedules; those declared in code were declared again.",
    measurements="count",
    metadata="scheduler",
)
SCHEDULER_STARTED: Final = _event(
    "scheduler.started",
    "A scheduler fires now; by how long nobody did before.",
    measurements="gap_s",
    metadata="scheduler",
)
SCHEDULER_CLOCK_JUMPED: Final = _event(
    "scheduler.clock_jumped",
    "Redis' clock was set: by that many seconds, negative if back.",
    measurements="by_s",
    metadata="scheduler",
)
