"""The transport's scripts as typed functions: each puts keys and arguments into the order that its script expects.

A function returns a :data:`Call`, to be run by a store, a command connection, a batch or the ack pipeline:
``store.run(*commands.publish(...))``. What a script does, returns and costs is in its header, ``lua/commands/*.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from orchestrator.core.keys import GROUP, Keys

#: The script's name, its keys and its arguments.
Call: TypeAlias = tuple[str, list[str], list[Any]]


def publish(stream: str, ledger: str, messages: Iterable[bytes | str], *, limit: int = 0) -> Call:
    """Accept messages into a step of a mailbox; the longest the step may become is ``limit``, if not 0.

    For a single message outside of a batch, the hash of last publishes and a token are added where the call is made.
    """
    return "publish", [stream, ledger], [limit, "", *messages]


def declare(keys: Keys, queue: str, streams: Iterable[str] = (), *, listed: bool = True, ttl_ms: int = 0) -> Call:
    """Make a mailbox known, and its streams readable; with ``ttl_ms``, they expire when unused for that long."""
    return "declare", [keys.queues, *streams], [queue, "1" if listed else "0", GROUP, ttl_ms]


def register(keys: Keys, name: str, fields: Mapping[str, Any], *, last: int = 0) -> Call:
    """Give a new incarnation of this node name its id and its lease; ``last`` is the process' last fencing token."""
    flat = [part for pair in fields.items() for part in pair]
    return "register", [keys.leases, keys.incarnation_counter], [keys.root, name, last, *flat]


def fence(
    keys: Keys,
    incarnation: str,
    reason: str,
    by: str,
    *,
    beat: bytes | str = "",
    turn: int | str = "",
    turn_ms: int = 0,
    error: str = "",
) -> Call:
    """End an incarnation: judged by a heartbeat in a sweeper's turn, or without both if it is known to have ended."""
    k = keys
    return (
        "fence",
        [k.leases, k.dying, k.deaths, k.incarnation(incarnation), k.sweep, k.silent],
        [incarnation, beat, reason, by, turn, turn_ms, k.root, error],
    )


def settle(stream: str, ledger: str, outcome: str, entries: Sequence[bytes | str], *, group: str = GROUP) -> Call:
    """End deliveries with a mere count: an outcome, or one with a blank and a reason behind it."""
    return "settle", [stream, ledger], [group, outcome, *entries]


def settle_with_outcome(
    stream: str,
    ledger: str,
    outcome_key: str,
    entry: bytes | str,
    counter: str,
    outcome: bytes | str,
    ttl_ms: int,
    *,
    reason: str = "",
) -> Call:
    """End one delivery and record its outcome, as JSON, for that many ms; a dead one has a ``reason``."""
    args = [GROUP, entry, counter, outcome, ttl_ms, *([reason] if counter == "dead" else [])]
    return "settle_with_outcome", [stream, ledger, outcome_key], args


def requeue_held(
    keys: Keys,
    queue: str,
    stream: str,
    entries: Iterable[bytes | str],
    *,
    max_deaths: int,
    ttl_ms: int,
    by: str,
    reason: str = "",
    ran: str = "0",
) -> Call:
    """Requeue messages by their holder, with a death in their history where there is a ``reason``.

    ``ran`` is how they ran: ``"1"`` alone, ``"0"`` otherwise, ``"stopping"``, ``"unattributed"`` or ``"undelivered"``.
    """
    return "requeue_held", [stream], [keys.root, queue, GROUP, max_deaths, ttl_ms, reason, by, ran, *entries]


def purge(ledger: str, delayed: str, bodies: str, most: int, root: str, ttl_ms: int, *, stream: str = "") -> Call:
    """Drop at most ``most`` messages that are not claimed, of a stream or of what is not yet due."""
    return "purge", [ledger, delayed, bodies, *([stream] if stream else [])], [GROUP, most, root, ttl_ms]
