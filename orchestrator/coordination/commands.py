"""The scripts of coordination as typed functions: each puts keys and arguments into the order that its script expects.

A function returns a :data:`~orchestrator.transport.redis.commands.Call`, to be run by the named leases:
``self.run(*commands.release(...))``. What a script does, returns and costs is in its header, ``lua/commands/*.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from orchestrator.core.coordination.lease import Kind, Request
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt, Call


def acquire(keys: Keys, kind: Kind, name: str, request: Request) -> Call:
    """Ask for a permit."""
    args = [
        keys.root,
        kind.value,
        name,
        request.token,
        request.owner,
        request.entry,
        request.wait_ms,
        request.limit_ms,
        int(request.reentrant),
        request.permits,
    ]
    return "acquire", [keys.leases], [*args, resources_json(request.resources), request.score]


def resources_json(resources: tuple[str, ...]) -> str:
    """A pool's resources, always as the same text."""
    return json.dumps(resources, separators=(",", ":")) if resources else "[]"


def release(keys: Keys, kind: Kind, name: str, token: str, reason: str, attempt: Attempt) -> Call:
    """Give a permit back, or leave the line."""
    return "release", [keys.leases, attempt.key], [keys.root, kind.value, name, token, reason, attempt.token]


def is_release_of(call: Call, kind: Kind, name: str) -> bool:
    """Whether a call of :func:`release` is about that name."""
    _, released_kind, released_name, *_ = call[2]
    return (released_kind, released_name) == (kind.value, name)


def hand_over(keys: Keys, name: str, token: str, candidate: str) -> Call:
    """End an election's term in favour of a candidate that waits."""
    return "hand_over", [keys.leases], [keys.root, name, token, candidate]


def check_in(keys: Keys, name: str, resource: str, owner: str, entry: str, attempt: Attempt) -> Call:
    """Give a resource of a pool back."""
    return "check_in", [keys.leases, attempt.key], [keys.root, name, resource, owner, entry, attempt.token]


def announce_terms(
    keys: Keys, name: str, number: int, ttl_ms: int, queue: str, level: str, texts: Sequence[str]
) -> Call:
    """Put the messages that announce a singleton's terms before all others, and let its leader claim."""
    args = [keys.root, name, number, ttl_ms, queue, level, *texts]
    return "announce_terms", [keys.leases, keys.announced_term(name)], args


def is_held(keys: Keys, kind: Kind, name: str, token: str) -> Call:
    """Ask whether a permit is still held."""
    return "is_held", [keys.leases], [keys.root, kind.value, name, token]


def holder_died(keys: Keys, owner: str, reason: str, batch: int) -> Call:
    """Release at most ``batch`` of what a dead owner held or waited for."""
    return "holder_died", [keys.leases, keys.named_of(owner)], [keys.root, owner, reason, batch]


def read_names(keys: Keys, kind: Kind, name: str, *, skip: int, most: int) -> Call:
    """Read what is held of one name, or of the names of a kind from the one at ``skip`` on."""
    return "read_names", [keys.named], [keys.root, kind.value, name, skip, most]
