"""The scripts of barriers as typed functions; see ``lua/commands/*.lua`` for what each does, returns and costs."""

from __future__ import annotations

import json

from orchestrator.core.coordination.barrier import Arriving, Waiting
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt, Call


def arrive_at_barrier(keys: Keys, name: str, request: Arriving) -> Call:
    """Count a party."""
    said = [
        request.parties,
        json.dumps(request.names),
        request.on_death.value,
        request.timeout_ms,
        request.then,
        request.if_broken,
    ]
    args = [keys.root, name, request.party, request.token, request.owner, request.entry, *said]
    return "arrive_at_barrier", [keys.leases, keys.barrier_call(request.caller)], args


def wait_at_barrier(keys: Keys, name: str, generation: int, party: str, waiting: Waiting) -> Call:
    """Ask what has become of a generation, and have the party's process wait for it."""
    args = [keys.root, name, generation, party, waiting.token, waiting.owner, waiting.entry]
    return "wait_at_barrier", [keys.leases, keys.barriers_of(waiting.owner)], args


def leave_barrier(keys: Keys, name: str, generation: int, party: str, token: str, why: str) -> Call:
    """Break a generation, because a party waits no more."""
    return "leave_barrier", [keys.leases], [keys.root, name, generation, party, token, why]


def reset_barrier(keys: Keys, name: str, generation: int, attempt: Attempt) -> Call:
    """Let the next generation begin."""
    return "reset_barrier", [keys.leases, attempt.key], [keys.root, name, generation, attempt.token]


def end_barrier(keys: Keys, name: str) -> Call:
    """Break the present generation, if its time is over."""
    return "end_barrier", [keys.leases, keys.timers], [keys.root, name]


def send_barrier_messages(keys: Keys, name: str, generation: int) -> Call:
    """Send messages of a generation that has ended."""
    return "send_barrier_messages", [keys.leases], [keys.root, name, generation]


def party_died(keys: Keys, owner: str, reason: str) -> Call:
    """Lose those who waited at one barrier in a dead process."""
    return "party_died", [keys.leases, keys.barriers_of(owner)], [keys.root, owner, reason]


def read_barriers(keys: Keys, name: str, *, skip: int, most: int) -> Call:
    """Read one barrier, or those from the one at ``skip`` on."""
    return "read_barriers", [keys.barriers], [keys.root, name, skip, most]
