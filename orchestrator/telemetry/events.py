"""The names of all events, with what each carries. Names and fields only ever grow."""

from __future__ import annotations

from typing import Final

#: A message was accepted. metadata: agent, message, id.
SENT: Final = "send.accepted"
#: A handler returned. metadata: agent, message, id, attempts.
HANDLED: Final = "delivery.handled"
#: An attempt failed and another is scheduled. measurements: pause_s. metadata: agent, message, id, attempt, error.
RETRIED: Final = "delivery.retried"
#: A message became a dead letter. metadata: agent, message, id, reason, error, attempts.
BURIED: Final = "dead_letter.added"
#: A dead letter was sent again. metadata: letter_id, queue.
REPLAYED: Final = "dead_letter.retried"
#: Dead letters were removed by hand. measurements: count.
PURGED: Final = "dead_letter.purged"
#: A message's attempts are used up and its sender wanted no dead letter. metadata as BURIED.
DROPPED: Final = "delivery.dropped"
#: An incarnation took out its lease. metadata: incarnation.
AGENT_UP: Final = "agent.up"
#: An incarnation was declared dead. measurements: silent_s. metadata: incarnation, reason, by.
AGENT_DEAD: Final = "agent.dead"
#: This process was declared dead while it was not. metadata: incarnation.
AGENT_FENCED: Final = "agent.fenced"
#: Messages of a dead incarnation were handed on. measurements: moved, dead_lettered. metadata: incarnation.
RECLAIMED: Final = "mail.reclaimed"
#: A sweep ran. measurements: late, dead. metadata: by.
SWEPT: Final = "sweep.finished"
#: The monitor manager has not swept; a worker did in its place. measurements: stale_s. metadata: by.
SWEEP_STOOD_IN: Final = "sweep.stood_in"
