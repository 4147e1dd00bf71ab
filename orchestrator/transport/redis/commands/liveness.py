"""The scripts of leases, heartbeats and sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands.call import Call, flat


def register(keys: Keys, name: str, fields: Mapping[str, Any], *, last: int = 0) -> Call:
    """Give a new incarnation of this node name its id and its lease; ``last`` is the process' last fencing token."""
    return "register", [keys.leases, keys.incarnation_counter], [keys.root, name, last, *flat(fields)]


def heartbeat(
    keys: Keys,
    incarnation: str,
    fields: Mapping[str, Any],
    *,
    missed_ms: int,
    oom_group: str = "",
    oom_kills: int | None = None,
    silent: bool | None = None,
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
        silent: whether the process does not consume although it should, if that has changed.
        with_endings: count the endings that Celery does not know of yet.
    """
    k = keys
    endings = [k.endings, k.endings_dropped] if with_endings else []
    return (
        "heartbeat",
        [k.leases, k.incarnation(incarnation), k.sweep, k.silent, k.oom(oom_group), *endings],
        [
            incarnation,
            "" if oom_kills is None else oom_kills,
            "" if silent is None else str(int(silent)),
            missed_ms,
            *flat(fields),
        ],
    )


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
