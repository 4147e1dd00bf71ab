"""Keys that may, and keys that may not, be in Redis when nothing runs and nothing is pending."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from chaos.redis_record import RECORD
from orchestrator.transport.store import Store

#: Accounts, dead letters with their index, the record of deaths and what kombu knows of exchanges: they stay.
_MONITORS = ("monitor", "monitor-stats", "monitor-origins", "down-supervision", "flushed:*")
#: Schedules lie in Redis until somebody removes them.
#: The names of killed schedulers are removed by the next one that looks for schedules to retire.
_SCHEDULES = ("scheduler", "schedulers", "schedules", "schedule:*", "schedules:owners", "schedules-of:s:*")
_FIRES = ("schedules:fires", "schedules:ledger")
_KEPT = (
    "dataset",
    "ledger:*",
    "calls:*",
    "queues",
    "agents",
    "on-cancelled",
    "incarnation",
    "sweep",
    "chore:*",
    "oom:*",
    "deaths",
    "disproved",
    "dead-letters",
    "letters:*",
    "runs",
    "runs:by-id",
    "named",
    "ballots",
    "barriers",
    "flow:*",
    *_MONITORS,
    *_SCHEDULES,
    *_FIRES,
)
_KOMBU = "_kombu.binding*"


def leftovers(store: Store) -> list[str]:
    """Keys that should be gone, each with what is in it."""
    client: Any = store.client
    found = []
    for key in sorted(raw.decode() for raw in client.scan_iter(count=1000)):
        problem = _problem(client, store, key)
        # It may have expired since it was listed.
        if problem and client.exists(key):
            found.append(f"{key}: {problem}")
    return found


def _problem(client: Any, store: Store, key: str) -> str:
    if key == RECORD:
        return ""
    root = store.keys.root
    name = key.removeprefix(root)
    if fnmatchcase(key, _KOMBU) or (key != name and any(fnmatchcase(name, kept) for kept in _KEPT)):
        return ""
    expiring = (
        "outcome:",
        "last-publish:",
        "run:",
        "hooks:",
        "durations:",
        "timeout-overrides",
        "inbox:",
        "stale-reply:",
        "idempotency:",
        "named:",
        "ballot",
        "barrier",
        "named-free:",
        "named-terms:",
        "announced-term:",
        "wake:",
    )
    if key.startswith(tuple(f"{root}{kind}" for kind in expiring)):
        return "" if client.pttl(key) > 0 else "kept for ever"
    if key.startswith(f"{root}q:") or name == "endings":
        return _in_stream(client, store, key)
    return f"a {client.type(key).decode()} that nobody needs any more, {_shown(client, key)}"


def _shown(client: Any, key: str) -> str:
    reads = {b"hash": client.hgetall, b"zset": lambda name: client.zrange(name, 0, 9), b"set": client.smembers}
    read = reads.get(client.type(key))
    return "" if read is None else repr(read(key))[:200]


def _in_stream(client: Any, store: Store, key: str) -> str:
    problems = []
    if length := client.xlen(key):
        problems.append(f"{length} entries")
    for group in client.xinfo_groups(key):
        if group["pending"]:
            problems.append(f"{group['pending']} pending")
        names = [consumer["name"].decode() for consumer in client.xinfo_consumers(key, group["name"])]
        if names:
            problems.append(f"consumers {', '.join(names)}")
    return ", ".join(problems)
