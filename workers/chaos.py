"""The demo's disturbances: bad input, and a SIGKILL of an auditor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.registry.registry import IncarnationEntry, Registry
from orchestrator.transport.store import Store
from workers.auditors import Audit, Auditor
from workers.processes import Child
from workers.records import Start

_UNDECODABLE = b"""\
# The name below is written in Latin-1, but a Python source is UTF-8 unless it says otherwise.

CAF\xc9 = "open"
"""
_KILLER = b"# This file is correct. The message that names it makes its worker SIGKILL itself.\n"

#: More than a worker prefetches.
_MANY = 10_000


def bad_input(directory: Path, run: str) -> dict[str, Audit]:
    """A file that cannot be decoded, and a message that kills its worker, by the names of their steps."""
    undecodable, killer = directory / "undecodable.py", directory / "kills_its_worker.py"
    undecodable.write_bytes(_UNDECODABLE)
    killer.write_bytes(_KILLER)
    return {
        "undecodable": Audit(path=str(undecodable), run=run),
        "poison": Audit(path=str(killer), run=run, kills_its_worker=True),
    }


@dataclass(frozen=True, slots=True)
class Kill:
    """The SIGKILL of one auditor."""

    name: str
    pid: int
    incarnation: str
    #: By Redis' clock.
    at_ms: int
    #: The deliveries that it held, started or not.
    held: frozenset[str]


def kill_one(store: Store, registry: Registry, auditors: Sequence[Child]) -> Kill | None:
    """SIGKILL the auditor that holds most messages, with its pool; ``None`` if none holds any now.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    by_pid = {entry.pid: entry for entry in registry.incarnations() if Auditor.name in entry.queues}
    candidates = [(child, by_pid[child.pid]) for child in auditors if child.pid in by_pid]
    if not candidates:
        return None
    victim, entry = max(candidates, key=lambda pair: len(_held_by(store, pair[1])))
    # A paused auditor cannot settle anything, so it still holds these messages when it is killed.
    victim.pause()
    held = _held_by(store, entry)
    if not held:
        victim.resume()
        return None
    seconds, microseconds = store.client.time()
    victim.kill()
    return Kill(
        name=victim.name,
        pid=entry.pid,
        incarnation=entry.id,
        at_ms=seconds * 1000 + microseconds // 1000,
        held=held,
    )


def _held_by(store: Store, entry: IncarnationEntry) -> frozenset[str]:
    # redis-py's annotations allow for text answers and none at all.
    client: Any = store.client
    held = set()
    for stream in filter(client.exists, store.streams(Auditor.name)):
        for pending in client.xpending_range(stream, store.group, "-", "+", _MANY, consumername=entry.id):
            place = pending["message_id"]
            for _, fields in client.xrange(stream, place, place):
                if b"m" in fields:
                    held.add(str(json.loads(fields[b"m"])["headers"]["id"]))
    return frozenset(held)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a killed auditor's messages ran elsewhere."""

    #: The messages that ran elsewhere; the auditor had finished the others.
    messages: int
    initial_s: float
    #: When the last of them had started.
    last_s: float


def recovery(kill: Kill, starts: Iterable[Start]) -> Recovery:
    """The time from the kill until each held message first started elsewhere."""
    first_ms: dict[str, int] = {}
    for start in starts:
        # A record that was on its way when the auditor died may have a later time than its death.
        elsewhere = kill.pid not in (start.pid, start.parent_pid)
        if start.delivery in kill.held and start.at_ms >= kill.at_ms and elsewhere:
            first_ms.setdefault(start.delivery, start.at_ms)
    waits_s = [(at_ms - kill.at_ms) / 1000 for at_ms in first_ms.values()]
    return Recovery(len(waits_s), min(waits_s, default=0.0), max(waits_s, default=0.0))
