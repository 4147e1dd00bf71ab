"""The registry in Redis: agents ever hosted, and the incarnations alive."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.store import Store

#: How long a sender trusts what it has read.
_FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """An agent as some worker has announced it."""

    name: str
    queue: str
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IncarnationEntry:
    """A living incarnation, as of its last heartbeat."""

    id: str
    node: str
    host: str
    pid: int
    agents: tuple[str, ...]
    queues: tuple[str, ...]
    started_ms: int
    heartbeat_age_s: float
    held: int
    running: int
    oldest_running_s: float
    last_poll_s: float


@dataclass(frozen=True, slots=True)
class Death:
    """An incarnation that ended."""

    incarnation: str
    reason: str
    by: str
    at_ms: int


def _text(fields: dict[bytes, bytes], name: str, default: str = "") -> str:
    return fields.get(name.encode(), default.encode()).decode("utf-8", "replace")


def _names(text: str) -> tuple[str, ...]:
    try:
        loaded = json.loads(text)
    except ValueError:
        return ()
    return tuple(str(item) for item in loaded) if isinstance(loaded, list) else ()


class Registry:
    """Reads and writes the registry.

    Every method raises :class:`BrokerUnavailable` when Redis is away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, AgentEntry] = {}
        self._read_at = float("-inf")

    def announce(self, entries: Iterable[AgentEntry]) -> None:
        """Make agents known to every sender; called by a worker that hosts them."""
        mapping = {e.name: json.dumps({"queue": e.queue, "messages": sorted(e.messages)}) for e in entries}
        if mapping:
            self._call(lambda c, k: c.hset(k.agents, mapping=mapping))

    def agents(self) -> dict[str, AgentEntry]:
        """All agents any worker has hosted; read at most every two seconds."""
        if monotonic() - self._read_at > _FRESH_S:
            self._known = self._read_agents()
            self._read_at = monotonic()
        return self._known

    def _read_agents(self) -> dict[str, AgentEntry]:
        known = {}
        for raw_name, raw in self._call(lambda c, k: c.hgetall(k.agents)).items():
            name, described = raw_name.decode(), json.loads(raw)
            known[name] = AgentEntry(name, described["queue"], tuple(described["messages"]))
        return known

    def incarnations(self) -> list[IncarnationEntry]:
        """All that are alive, by the last heartbeat Redis has."""
        now_s, now_us = self._call(lambda c, _: c.time())
        now_ms = now_s * 1000 + now_us // 1000
        leases = self._call(lambda c, k: c.zrange(k.leases, 0, -1, withscores=True))
        entries = []
        for raw_id, beat_ms in leases:
            name = raw_id.decode()
            fields = self._call(lambda c, k, name=name: c.hgetall(k.incarnation(name)))
            entries.append(
                IncarnationEntry(
                    id=name,
                    node=_text(fields, "node"),
                    host=_text(fields, "host"),
                    pid=int(_text(fields, "pid", "0")),
                    agents=_names(_text(fields, "agents", "[]")),
                    queues=_names(_text(fields, "queues", "[]")),
                    started_ms=int(_text(fields, "started_ms", "0")),
                    heartbeat_age_s=max(0.0, (now_ms - beat_ms) / 1000),
                    held=int(_text(fields, "held", "0")),
                    running=int(_text(fields, "running", "0")),
                    oldest_running_s=float(_text(fields, "oldest_running_s", "0")),
                    last_poll_s=float(_text(fields, "last_poll_s", "0")),
                )
            )
        return sorted(entries, key=lambda e: e.id)

    def deaths(self, limit: int = 100) -> list[Death]:
        """The last incarnations that ended, newest first."""
        rows = self._call(lambda c, k: c.xrevrange(k.deaths, count=limit))
        return [
            Death(
                incarnation=_text(fields, "incarnation"),
                reason=_text(fields, "reason"),
                by=_text(fields, "by"),
                at_ms=int(entry.decode().split("-")[0]),
            )
            for entry, fields in rows
        ]

    def _call(self, command: Any) -> Any:
        try:
            return command(self._store.client, self._store.keys)
        except RedisError as error:
            raise BrokerUnavailable(self._store.url, error) from error
