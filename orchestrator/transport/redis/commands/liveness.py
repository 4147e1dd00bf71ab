"""The scripts of leases, heartbeats and sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis.commands.call import Call, flat

#: Which of the arguments of :func:`fence` is the reason.
FENCE_REASON_AT: Final = 2


def register(keys: Keys, name: str, fields: Mapping[str, Any], *, last: int = 0) -> Call:
    """Register a new incarnation under a node name: give it a number above ``last``, an id and a lease.

    ``last`` is the number of this process' incarnation before: Redis may have lost its counter.
    """
    return "register", [keys.leases, keys.incarnation_counter], [keys.root, name, last, *flat(fields)]


def heartbeat(
    keys: Keys,
    incarnation: str,
    fields: Mapping[str, Any],
    *,
    missed_ms: int,
    oom_group: str = "",
    oom_kills: int | None = None,
    not_polling: bool | None = None,
    with_endings: bool = False,
) -> Call:
    """Renew a lease, and record what has changed.

    Args:
        keys: the names of keys.
        incarnation: the lease's owner.
        fields: what has changed in its record.
        missed_ms: the age at which another's heartbeat counts as missed.
        oom_group: its control group.
        oom_kills: that group's count of OOM kills, if it has changed.
        not_polling: whether the process does not consume although it should, if that has changed.
        with_endings: count the endings that Celery does not know of yet.
    """
    endings = [keys.endings, keys.endings_dropped] if with_endings else []
    known = [
        keys.leases,
        keys.incarnation(incarnation),
        keys.sweep,
        keys.not_polling,
        keys.oom(oom_group),
        keys.cancelling,
    ]
    return (
        "heartbeat",
        [*known, keys.timeout_overrides, *endings],
        [
            keys.root,
            incarnation,
            "" if oom_kills is None else oom_kills,
            "" if not_polling is None else str(int(not_polling)),
            missed_ms,
            *flat(fields),
        ],
    )


def read_sweep_state(keys: Keys, *, missed_ms: int) -> Call:
    """Ask whether a sweep is needed; a heartbeat of that age counts as missed."""
    return "read_sweep_state", [keys.sweep, keys.leases], [missed_ms]


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
    return (
        "fence",
        [keys.leases, keys.dying, keys.deaths, keys.incarnation(incarnation), keys.sweep, keys.not_polling],
        [incarnation, beat, reason, by, turn, turn_ms, keys.root, error],
    )


def complete_death(keys: Keys, incarnation: str, reason: str, by: str, *, error: str) -> Call:
    """Complete the record of a death that was found before it was known how the process had ended."""
    return (
        "complete_death",
        [keys.deaths, keys.incarnation(incarnation), keys.dying],
        [incarnation, reason, by, error],
    )


def renew_lease(keys: Keys, incarnation: str, *connection: str) -> Call:
    """Renew a lease for the heart of an incarnation; it appends its ``connection`` where that is not known yet."""
    return "renew_lease", [keys.leases, keys.incarnation(incarnation)], [incarnation, *connection]


def begin_sweep(
    keys: Keys,
    sweeper: str,
    by: str,
    *,
    late_ms: int,
    gap_ms: int,
    closed_grace_ms: int,
    old_heartbeat_grace_ms: int,
    turn_ms: int,
    connection: str = "",
) -> Call:
    """Take the turn as a sweeper, for ``turn_ms``, and find late incarnations.

    A new run of the server is a gap for old heartbeats, as nobody could send any meanwhile.

    Args:
        keys: the names of keys.
        sweeper: who takes the turn.
        by: its name in the record of deaths.
        late_ms: the age from which a heartbeat is late.
        gap_ms: the longest gap between two sweeps after which an old heartbeat still proves a death.
        closed_grace_ms: for how long after a gap closed connections prove nothing.
        old_heartbeat_grace_ms: for how long after a gap an old heartbeat proves nothing.
        turn_ms: how long the turn lasts.
        connection: the sweeper's connection: once it is closed, the turn is over.
    """
    times = [late_ms, gap_ms, closed_grace_ms, old_heartbeat_grace_ms]
    args = [*times, by, keys.root, sweeper, turn_ms, connection]
    return "begin_sweep", [keys.leases, keys.sweep, keys.not_polling], args


def end_sweep(keys: Keys, turn: int) -> Call:
    """End a sweeper's turn."""
    return "end_sweep", [keys.sweep], [turn]


def find_orphans(
    keys: Keys,
    levels: Sequence[str],
    queues: Iterable[bytes | str],
    *,
    turn: int | str = "",
    turn_ms: int = 0,
    reader_idle_ms: int,
) -> Call:
    """Find consumers that hold messages of these mailboxes and have no lease; a reader, if idle for that long."""
    return (
        "find_orphans",
        [keys.leases, keys.dying, keys.sweep],
        [keys.root, GROUP, turn, turn_ms, reader_idle_ms, len(levels), *levels, *queues],
    )


def find_stuck(keys: Keys, levels: Sequence[str], *, late_ms: int, first: int, count: int) -> Call:
    """Find incarnations that do not consume, among ``count`` that do not poll, from place ``first`` on."""
    return "find_stuck", [keys.not_polling, keys.leases], [late_ms, keys.root, GROUP, first, count, *levels]


def reclaim(
    keys: Keys,
    incarnation: str,
    levels: Iterable[str],
    *,
    max_deaths: int,
    ttl_ms: int,
    batch: int,
    linger_ms: int,
    turn: int | str = "",
    turn_ms: int = 0,
    death_hooks_done: bool | None,
) -> Call:
    """Requeue some of what a fenced incarnation held.

    Args:
        keys: the names of keys.
        incarnation: the fenced incarnation.
        levels: the levels of mailboxes to search, the doorbell included.
        max_deaths: the number of deaths that makes a message poison.
        ttl_ms: for how long outcomes are kept.
        batch: the most entries of one call.
        linger_ms: for how long the incarnation stays in the list of the dying, as a blocked read may still be served.
        turn: the caller's turn as a sweeper; '' if it has none.
        turn_ms: how long a turn lasts.
        death_hooks_done: whether its death hooks are done; ``None`` if the caller does not run death hooks.
    """
    hooks = "" if death_hooks_done is None else int(death_hooks_done)
    return (
        "reclaim",
        [keys.dying, keys.incarnation(incarnation), keys.queues, keys.sweep],
        [keys.root, incarnation, GROUP, max_deaths, ttl_ms, batch, linger_ms, turn, turn_ms, hooks, *levels],
    )


def disprove_death(keys: Keys, incarnation: str, fields: Mapping[str, Any], *, days: int) -> Call:
    """Record that an incarnation that was declared dead is alive, for that many days; ``fields`` describe its end."""
    return "disprove_death", [keys.disproved, keys.deaths], [incarnation, days, *flat(fields)]


def unleased_claims(streams: Iterable[str], incarnation: str, *, idle_ms: int) -> Call:
    """List what an incarnation holds in these streams, idle for at least that long."""
    return "unleased_claims", list(streams), [GROUP, incarnation, idle_ms]


def claim_chore(keys: Keys, chore: str, wait_ms: int) -> Call:
    """Ask for a chore, which is due again in ``wait_ms``."""
    return "claim_chore", [keys.chore(chore)], [wait_ms]


def identify_dataset(
    keys: Keys, new_id: str, *, known_id: str = "", born_ms: int | str = "", epoch: int | str = ""
) -> Call:
    """Ask for the identity of the data set, ``new_id`` if it has none; the rest is that of the one before, if any."""
    return "identify_dataset", [keys.dataset], [new_id, known_id, born_ms, epoch]
