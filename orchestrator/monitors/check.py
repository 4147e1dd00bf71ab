"""A consistency check: every set, inbox and counter of the monitors agrees with the monitors."""

from __future__ import annotations

from typing import Any

from orchestrator.core.stored_values import stored_text
from orchestrator.monitors.leak import LeakKind
from orchestrator.monitors.redis_monitors import RedisMonitors


def inconsistencies(monitors: RedisMonitors) -> list[str]:
    """Descriptions of what is inconsistent. Reliable only while no process changes monitors.

    Raises:
        BrokerUnavailable: Redis cannot be reached.
    """
    found = [
        f"{leak.kind}: monitor {leak.ref} of {leak.owner or '?'} on {leak.target or '?'}: {leak.detail}"
        for leak in monitors.find_leaks()
        if leak.kind in (LeakKind.HALF_WRITTEN, LeakKind.OWNER_GONE, LeakKind.TARGET_GONE)
    ]
    stats = monitors.stats()
    if stats.created != stats.active + stats.cleaned:
        found.append(f"created {stats.created}, but active {stats.active} and cleaned {stats.cleaned}")
    return found + _keys(monitors)


def _keys(monitors: RedisMonitors) -> list[str]:
    store, k = monitors.store, monitors.store.keys
    client: Any = store.client
    living = monitors.living()
    owners, targets = set(monitors.members(k.monitor_owners)), set(monitors.members(k.monitor_targets))
    named = {k.monitors_of(owner) for owner in owners} | {k.monitors_on(target) for target in targets}
    found = []
    try:
        for pattern in (k.monitors_of("*"), k.monitors_on("*")):
            there = {stored_text(raw) for raw in client.scan_iter(pattern, count=1000)}
            found += [f"{key}: no set of names has this key" for key in sorted(there - named)]
            named -= there
        found += [f"{key}: named, but missing" for key in sorted(named)]
        for raw in client.scan_iter(k.downs("*"), count=1000):
            session = stored_text(raw).removeprefix(k.downs(""))
            if session not in living and client.zscore(k.dying, session) is None:
                found.append(f"{stored_text(raw)}: the inbox of a session that is gone")
    except OSError as error:
        raise store.failure(error) from error
    return found
