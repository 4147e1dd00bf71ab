"""The scripts of distributions and hierarchies as typed functions, which put keys and arguments into their order.

A function returns a :data:`~orchestrator.transport.redis.commands.Call`. What a script does, returns and costs is in
its header, ``lua/commands/*.lua``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.coordination.distribution.backend import OnceOnly
from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis.commands import Attempt, Call


def read_takers(keys: Keys, levels: Sequence[str], agents: Mapping[str, str]) -> Call:
    """Read how agents stand, each with its mailbox."""
    pairs = [part for agent in agents.items() for part in agent]
    return "read_takers", [keys.leases], [keys.root, GROUP, len(levels), *levels, *pairs]


def stage_items(keys: Keys, id: str, items: Sequence[tuple[str, str, str]], *, before: int, keep_ms: int) -> Call:
    """Stage a slice of items: of each its level, its mailbox and its message; ``before`` are staged already."""
    parts = [part for level, queue, message in items for part in (f"{level}:{queue}", message)]
    return "stage_items", [keys.items(id)], [before, keep_ms, *parts]


def commit_items(keys: Keys, id: str, counts: Mapping[str, int], *, keep_ms: int, once: OnceOnly | None = None) -> Call:
    """Accept all staged items, or none; ``counts`` has the number of each mailbox. With a key, ``once``."""
    names = [keys.items(id), keys.distribution(id), keys.timers, keys.coordination_counts]
    record, ttl_ms = "", 0
    if once is not None:
        names.append(keys.distribution_idempotency(once.key))
        record, ttl_ms = once.record, once.ttl_ms
    pairs = [part for count in counts.items() for part in count]
    return "commit_items", names, [keys.root, id, sum(counts.values()), keep_ms, record, ttl_ms, *pairs]


def release_items(keys: Keys, id: str, most: int) -> Call:
    """Put at most ``most`` accepted items into their mailboxes."""
    return "release_items", [keys.items(id), keys.timers], [keys.root, id, most]


def delete_hierarchy(keys: Keys, name: str, attempt: Attempt) -> Call:
    """Forget a hierarchy."""
    return "delete_hierarchy", [keys.hierarchies, attempt.key], [name, attempt.token]
