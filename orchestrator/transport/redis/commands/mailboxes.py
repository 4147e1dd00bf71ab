"""The scripts of mailboxes: declaring, claiming, looking, counting and dropping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.keys import DEFERRED, DOORBELL, GROUP, LANES, Keys
from orchestrator.transport.redis.commands.call import Attempt, Call, flat


def declare(keys: Keys, queue: str, streams: Iterable[str] = (), *, listed: bool = True, ttl_ms: int = 0) -> Call:
    """Make a mailbox known, and its streams readable; with ``ttl_ms``, they expire when unused for that long."""
    return "declare", [keys.queues, *streams], [queue, "1" if listed else "0", GROUP, ttl_ms]


def declare_flow(
    keys: Keys,
    queue: str,
    fields: Mapping[str, Any],
    *,
    serves: bool,
    has_bound: bool,
    has_breaker: bool,
    election: str = "",
    concurrency: tuple[int, str] | None = None,
) -> Call:
    """Record a mailbox' flow control; ``serves``: the caller serves the mailbox.

    With an ``election``, only its leader claims; ``concurrency`` is how many messages run at a time, and their key.
    """
    flags = ["1" if flag else "0" for flag in (serves, has_bound, has_breaker)]
    return "declare_flow", [keys.flow(queue)], [keys.root, *flags, election, *(concurrency or ("", "")), *flat(fields)]


def declare_singleton(keys: Keys, queue: str, election: str) -> Call:
    """Declare a singleton again; returns the workers that host its agent without declaring it."""
    return "declare_singleton", [keys.flow(queue)], [keys.root, election]


def close_breaker(keys: Keys, queue: str, attempt: Attempt) -> Call:
    """Close a mailbox' breaker."""
    return "close_breaker", [keys.flow(queue), keys.queues, attempt.key], [attempt.token]


def isolate_breaker(keys: Keys, queue: str, why: str, attempt: Attempt) -> Call:
    """Keep a mailbox' breaker open until it is closed by hand."""
    return "isolate_breaker", [keys.flow(queue), keys.queues, attempt.key], [why, attempt.token]


def release_deferred(keys: Keys, queue: str) -> Call:
    """Let go of a mailbox' deferred messages, as many as its breaker admits."""
    return "release_deferred", [keys.flow(queue), keys.timers, keys.queues], [keys.root, queue]


def check_lanes(keys: Keys, queue: str) -> Call:
    """End permits that nothing has any more, and let messages go for which there are permits."""
    return "check_lanes", [keys.timers, keys.queues], [keys.root, queue]


def claim_keys(keys: Keys, queues: Iterable[str], levels: Sequence[str]) -> list[str]:
    """The keys of claims from these mailboxes. The place of one in a claim's reply is its place here, from 1."""
    names = [keys.leases]
    for queue in queues:
        names += [keys.delayed(queue), keys.delayed_bodies(queue), *(keys.stream(queue, level) for level in levels)]
    return names


def claim(
    keys: Keys,
    queues: Iterable[str],
    levels: Sequence[str],
    incarnation: bytes | str,
    credit: int,
    *,
    ahead: int = 0,
    leased: bool = False,
    names: list[str] | None = None,
) -> Call:
    """Claim up to ``credit`` messages to deliver now, and ``ahead`` more; ``leased``: only if there is a lease.

    ``names`` are its keys, if they are known (see :func:`claim_keys`).
    """
    names = names or claim_keys(keys, queues, levels)
    return "claim", names, [GROUP, incarnation, "1" if leased else "0", credit, ahead, *levels]


def hold_mailbox(keys: Keys, queue: str, host: str) -> Call:
    """Put a mailbox on hold for the incarnations of a host, unless a living one serves it."""
    return "hold_mailbox", [keys.flow(queue), keys.leases], [keys.root, queue, host]


def release_mailbox(keys: Keys, queue: str, host: str) -> Call:
    """End the hold that was put on a mailbox for a host."""
    return "release_mailbox", [keys.flow(queue), keys.stream(queue, DOORBELL)], [queue, host]


def find_delivery(
    keys: Keys,
    queue: str,
    delivery: str,
    *,
    stream: str,
    begin: str,
    count: int,
    cancel: tuple[str, Attempt] | None = None,
    ttl_ms: int,
) -> Call:
    """Look for a delivery among ``count`` messages of a stream, or of what is not yet due if ``stream`` is ''.

    To ``cancel`` it where it is found, give its outcome, as JSON, and the attempt. ``begin`` is where the reply before
    said to go on; at first ``-`` in a stream, ``0`` elsewhere.
    """
    outcome, attempt = cancel or ("", None)
    return (
        "find_delivery",
        [
            keys.ledger(queue),
            keys.outcome(delivery),
            keys.delayed(queue),
            keys.delayed_bodies(queue),
            keys.cancelling,
            *([attempt.key] if attempt else []),
            *([stream] if stream else []),
        ],
        [GROUP, delivery, outcome, ttl_ms, begin, count, attempt.token if attempt else ""],
    )


def mailbox_depths(keys: Keys, levels: Sequence[str], queues: Iterable[bytes | str]) -> Call:
    """Read counters and lengths of some mailboxes."""
    levels = (*levels, DEFERRED, LANES)
    return "mailbox_depths", [keys.queues], [keys.root, GROUP, len(levels), *levels, *queues]


def mailbox_states(keys: Keys, levels: Sequence[str], queues: Iterable[bytes | str]) -> Call:
    """Read how many messages wait in some mailboxes, and their flow control."""
    levels = (*levels, DEFERRED, LANES)
    return "mailbox_states", [keys.leases], [keys.root, GROUP, len(levels), *levels, *queues]


def purge(keys: Keys, queue: str, most: int, *, ttl_ms: int, stream: str = "") -> Call:
    """Drop at most ``most`` messages that are not claimed, of a stream or of what is not yet due."""
    names = [keys.ledger(queue), keys.delayed(queue), keys.delayed_bodies(queue)]
    return "purge", [*names, *([stream] if stream else [])], [GROUP, most, keys.root, ttl_ms]


def delete(
    keys: Keys, queue: str, streams: Sequence[str], most: int, *, ttl_ms: int, stream: str = "", is_reply: bool
) -> Call:
    """Drop at most ``most`` messages, of a ``stream`` or of what is not yet due, and the mailbox once it is empty.

    ``streams`` are all of the mailbox but its bell; ``is_reply``: it is a queue of replies, which has no ledger.
    """
    names = [
        keys.ledger(queue),
        keys.queues,
        keys.delayed(queue),
        keys.delayed_bodies(queue),
        keys.stream(queue, DOORBELL),
        *streams,
    ]
    number = streams.index(stream) + 1 if stream else 0
    return "delete", names, [queue, "1" if is_reply else "0", GROUP, most, keys.root, ttl_ms, number]
