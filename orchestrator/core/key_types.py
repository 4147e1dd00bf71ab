"""The type that each key of this library has in Redis, to find one that something else has written."""

from __future__ import annotations

from typing import Final

from orchestrator.core.keys import Keys

#: By the beginnings of names after the root, of each type. What ends with a colon is followed by a free text.
_BEGINNINGS: Final = {
    "hash": (
        "agents asking asking: ask: ballot: ballot-copies: ballot-voters: ballot-votes: barrier: barrier-arrived: "
        "barrier-gone: barrier-if-broken: barrier-rest: barrier-then: barrier-waiting: calls: "
        "coordination-counts dataset delayed-body: down-supervision durations: endings:failed flow: group: "
        "hierarchies hooks: hosts: incarnation: last-publish: ledger: letters:arrivals: letters:audit: "
        "letters:kind-names letters:notes letters:origins monitor-answers monitor-origins monitor-stats monitors "
        "named: named-holders: named-waiting: on-cancelled permits: permits-used: run: runs:by-id runs:open schedule: "
        "scheduler schedulers schedules schedules:broken schedules:ledger sweep timeout-overrides"
    ),
    "zset": (
        "ballots barriers bulkhead: bulkhead-line: bulkhead-tickets: delayed: disproved dying endings:taken leases "
        "letters:due letters:kinds letters:parked monitors-on: named named-line: not-polling runs runs:limit: "
        "runs:placed: "
        "runs:unplaced schedules:bound schedules:due timers"
    ),
    "set": (
        "barriers-of: cancelling letters:agent: letters:error: letters:group: letters:message: letters:reason: "
        "monitor-owners monitor-targets monitors-of: named-of: queues runs:busy runs:paused runs:placed "
        "scheduler-declares: schedules-of: schedules:owners servers:"
    ),
    "stream": "dead-letters deaths endings inbox: letters:audit letters:kind: named-terms: q: schedules:fires",
    "list": "ballot-decision: ballot-undelivered: downs: items: lane: named-free: outcome: runs:queued: wake:",
    "string": (
        "announced-term: barrier-call: barrier-ended: chore: distribution: endings:dropped endings:reader: flushed: "
        "idempotency: incarnation letters:expired letters:planned monitor oom: schedule-request: stale-reply:"
    ),
}

#: All types that this library uses.
TYPES: Final = tuple(_BEGINNINGS)

#: Type by beginning.
KEY_TYPES: Final = {name: kind for kind, names in _BEGINNINGS.items() for name in names.split()}

#: Keys beside a run's and a broadcast's (see `runs.lua`, `broadcast_ends.lua`), by what follows the id.
PARTS: Final = {
    **dict.fromkeys(("plan", "templates", "states", "outcomes", "maps", "events", "calls"), "hash"),
    **dict.fromkeys(("agenda", "ready", "undo", "postponed", "ended", "handled"), "list"),
    "unplaced": "zset",
}
_WITH_PARTS: Final = ("run:", "group:")

#: Names without a free text: what any command may use.
FIXED: Final = tuple(name for name in KEY_TYPES if not name.endswith(":"))

#: What lies beside a mailbox, an incarnation, a schedule, … under the same name.
_BESIDE: Final = tuple(name for name in KEY_TYPES if name.endswith(":") and name.count(":") == 1 and name != "q:")


def type_of(keys: Keys, name: str) -> str:
    """The type that a key has; empty if it is none of this library's."""
    if not name.startswith(keys.root):
        return ""
    own = name[len(keys.root) :]
    if own in KEY_TYPES:
        return KEY_TYPES[own]
    if own.startswith(_WITH_PARTS) and own.count(":") == 2:
        return PARTS.get(own.rpartition(":")[2], "")
    fitting = [beginning for beginning in KEY_TYPES if beginning.endswith(":") and own.startswith(beginning)]
    return KEY_TYPES[max(fitting, key=len)] if fitting else ""


def names_beside(keys: Keys, name: str, levels: tuple[str, ...]) -> list[str]:
    """The keys that scripts may use together with this one: those of the same mailbox, incarnation, schedule, …"""
    own = name.removeprefix(keys.root)
    kind, _, rest = own.partition(":")
    if kind == "q":
        rest = rest.partition(":")[2]
    if not rest:
        return []
    return [
        *(f"{keys.root}{beginning}{rest}" for beginning in _BESIDE),
        *(keys.stream(rest, level) for level in (*levels, "bell", "deferred", "lanes")),
    ]
