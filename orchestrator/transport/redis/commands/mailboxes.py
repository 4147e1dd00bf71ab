"""The scripts that declare mailboxes and drop what is in them."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis.commands.call import Call


def declare(keys: Keys, queue: str, streams: Iterable[str] = (), *, listed: bool = True, ttl_ms: int = 0) -> Call:
    """Make a mailbox known, and its streams readable; with ``ttl_ms``, they expire when unused for that long."""
    return "declare", [keys.queues, *streams], [queue, "1" if listed else "0", GROUP, ttl_ms]


def purge(ledger: str, delayed: str, bodies: str, most: int, root: str, ttl_ms: int, *, stream: str = "") -> Call:
    """Drop at most ``most`` messages that are not claimed, of a stream or of what is not yet due."""
    return "purge", [ledger, delayed, bodies, *([stream] if stream else [])], [GROUP, most, root, ttl_ms]
